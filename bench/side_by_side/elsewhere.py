"""Enters what is not a call in this process: starts of programs, files, node, the runner."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from statistics import median

from side_by_side import peers
from side_by_side.feedforward import RUNNER, TABLE_BATCHES
from side_by_side.lineup import Lineup, Measures
from side_by_side.plain import plain
from side_by_side.processes import STARTS, Runner, Start, build_example, build_launcher
from side_by_side.subjects import Subject, models_of_ours, sse2_library, web_module
from torchship.cpp_runner.binary import runner_path
from torchship.models.moba import OBS
from torchship.native.running.wasm import NodeProcess
from torchship.script.format.tree import Flat
from torchship.script.runtime.batch import batch_inputs
from torchship.script.runtime.program import arguments_of, check_inputs, initial_state

IN_NODE, SSE2 = "node", "native with SSE2"
NODE_SAMPLES = 5  # in a round


def enter_start(lineup: Lineup) -> None:
    """Enter programs that load `moba`, make one step and end."""
    archive = lineup.subjects["moba"].archive
    nothing, zeros = lineup.folder / "nothing", lineup.folder / "zeros.json"
    nothing.touch()
    zeros.write_text(json.dumps({"obs": [[0] * OBS]}) + "\n")

    def native() -> Measures:
        program = build_example(archive, lineup.folder)
        start = Start(build_launcher(lineup.folder), [str(program)], nothing, STARTS)
        return {"native": start.milliseconds, "native memory": start.megabytes}

    def runner() -> Measures:
        command = [str(runner_path()), "run", str(archive.path), "--input", "-"]
        start = Start(build_launcher(lineup.folder), command, zeros, 1)
        return {RUNNER: start.milliseconds, f"{RUNNER} memory": start.megabytes}

    lineup.add("start", ("native", "native memory"), native)
    lineup.add("start", (RUNNER, f"{RUNNER} memory"), runner)


def enter_library(lineup: Lineup) -> None:
    """Enter the size of moba's library."""

    def make() -> Measures:
        subject = lineup.subjects["moba"]
        if subject.library is None:
            raise RuntimeError(subject.error)
        megabytes = subject.library.stat().st_size / 1e6
        return {"moba": lambda: megabytes}

    lineup.add("library", ("moba",), make)


def enter_node(lineup: Lineup) -> None:
    """Enter `moba` in node, and native with vectors as wide as WebAssembly's."""
    subject, given = lineup.subjects["moba"], plain("moba")
    inputs: Flat = dict(zip(given.inputs, given.feed(1), strict=True))
    expected = peers.eager(given.module, given.feed(1))
    narrow = partial(sse2_library, subject, lineup.folder)
    lineup.add_native("node", subject, inputs, expected, narrow, SSE2)

    def make() -> Measures:
        module = web_module(subject, lineup.folder)
        manifest = subject.archive.require_manifest()
        node = lineup.stack.enter_context(NodeProcess(module, manifest))
        peers.check(expected, list(node.call("forward", inputs).values()))
        return {
            IN_NODE: lambda: median(
                node.microseconds("forward", inputs) for _ in range(NODE_SAMPLES)
            )
        }

    lineup.add("node", (IN_NODE,), make)


def enter_runner(lineup: Lineup) -> None:
    """Enter every model of ours, eager and in the runner, with inputs of its golden cases."""
    for name in models_of_ours():
        subject = lineup.subjects[name]
        manifest, golden = subject.archive.require_manifest(), subject.archive.golden
        method, _ = batch_inputs(manifest, golden, 1)
        runner = Runner(subject.archive, method, TABLE_BATCHES, lineup.seconds)
        for batch in TABLE_BATCHES:
            prefix = f"runner/{name}/{batch}"
            _, inputs = batch_inputs(manifest, golden, batch)
            lineup.add_call(prefix, "eager", _eager_call(subject, method, inputs))
            lineup.add(prefix, (RUNNER,), partial(_measure_runner, runner, batch))


def _measure_runner(runner: Runner, batch: int) -> Measures:
    return {RUNNER: runner.measure(str(batch))}


def _eager_call(subject: Subject, method: str, inputs: Flat) -> Callable[[], object]:
    signature = subject.archive.require_manifest().methods[method]
    started = initial_state(signature, inputs, check_inputs(signature, inputs))
    arguments = arguments_of(signature, {**inputs, **started})
    module = subject.eager
    function = module if method == "forward" else getattr(module, method)
    return lambda: function(**arguments)

"""Enters `moba` in every runtime at every batch size, and small models beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from side_by_side import peers
from side_by_side.lineup import Lineup, Measures
from side_by_side.plain import Plain, plain
from side_by_side.processes import Runner

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # of the plot
TABLE_BATCHES = (1, 32, 256)
ONNX = ("ONNX Runtime", "ONNX Runtime (bound)")
COMPILE, AHEAD, OPENVINO = "torch.compile", "AOTInductor", "OpenVINO"
OTHERS = (*ONNX, OPENVINO, COMPILE, AHEAD)
RUNNER = "LibTorch runner"
IN_RUNNER = "native in the runner"
SMALL = ("snake", "bobnet", "wavenet", "fizzbuzz")


def enter_moba(lineup: Lineup) -> None:
    """Enter `moba` in every runtime, at every batch size of the plot."""
    subject, given = lineup.subjects["moba"], plain("moba")
    for batch in BATCHES:
        _enter_ours(lineup, "moba", given, batch)
    _enter_onnx(lineup, "moba", given, BATCHES, with_openvino=True)
    _enter_inductor(lineup, given)
    runner = Runner(subject.archive, "forward", BATCHES, lineup.seconds, subject.library)
    for batch in BATCHES:
        lineup.add(f"moba/{batch}", (RUNNER, IN_RUNNER), partial(_in_runner, runner, batch))


def enter_small(lineup: Lineup) -> None:
    """Enter small models at batch 1, native and in ONNX Runtime."""
    for name in SMALL:
        given = plain(name)
        _enter_ours(lineup, name, given, 1)
        _enter_onnx(lineup, name, given, (1,), with_openvino=False)


def _in_runner(runner: Runner, batch: int) -> Measures:
    return {RUNNER: runner.measure(f"{batch}"), IN_RUNNER: runner.measure(f"{batch} native")}


def _enter_ours(lineup: Lineup, name: str, given: Plain, batch: int) -> None:
    """Enter native and eager, which is our own module with its checks."""
    subject, inputs = lineup.subjects[name], given.feed(batch)
    module = subject.eager
    expected = peers.eager(module, inputs)
    peers.check(expected, peers.eager(given.module, inputs))
    named = dict(zip(given.inputs, inputs, strict=True))
    lineup.add_native(f"{name}/{batch}", subject, named, expected)
    lineup.add_call(f"{name}/{batch}", "eager", lambda: module(*inputs))


def _enter_onnx(
    lineup: Lineup, name: str, given: Plain, batches: Sequence[int], with_openvino: bool
) -> None:
    exported = once(partial(peers.onnx_file, given, lineup.folder / f"{name}.onnx"))
    for batch in batches:
        prefix = f"{name}/{batch}"
        lineup.add_calls(prefix, ONNX, partial(peers.onnx_runtime, exported, given, batch))
        if with_openvino:
            lineup.add_calls(prefix, (OPENVINO,), partial(peers.openvino, exported, given, batch))


def _enter_inductor(lineup: Lineup, given: Plain) -> None:
    """Enter what is compiled for each size of the table, and once for the sizes between."""
    any_size = once(partial(peers.aot_inductor, given, None, lineup.folder))
    for batch in BATCHES:
        fixed = batch in TABLE_BATCHES
        program = partial(peers.aot_inductor, given, batch, lineup.folder) if fixed else any_size
        prefix = f"moba/{batch}"
        lineup.add_calls(
            prefix, (COMPILE,), partial(peers.torch_compile, given, batch, dynamic=not fixed)
        )
        lineup.add_calls(prefix, (AHEAD,), partial(peers.run_aot, program, given, batch))


def once(make: Callable[[], peers.Made]) -> Callable[[], peers.Made]:
    """Return a function that makes something at its first call; an error comes at every call."""
    made: list[peers.Made] = []
    failed: list[Exception] = []

    def get() -> peers.Made:
        if failed:
            raise failed[0]
        if not made:
            try:
                made.append(make())
            except Exception as error:
                failed.append(error)
                raise
        return made[0]

    return get

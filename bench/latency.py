"""Latency at batch 1 of each model in each runtime, side by side: `make bench-latency`.

Every round measures every runtime once, in turn, so that a noisy moment of the machine hits all of
them; the table shows the median over the rounds of each round's median, and the ratio to eager.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from torchship.cpp_runner.binary import runner_path
from torchship.models import registry
from torchship.script.exporting.export import export
from torchship.script.exporting.runtimes import median_us
from torchship.script.exporting.target import find_target, make_module
from torchship.script.format.tree import Flat
from torchship.script.runtime import torchscript
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.batch import batch_inputs
from torchship.script.runtime.program import Program
from torchship.serve.client.client import Client
from torchship.serve.client.local_server import running_server


def main(rounds: int = 7, json_output: Path | None = None) -> None:
    """Print the table; write the figures as JSON too if a path is given."""
    torchscript.configure()
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        archives = [
            export(find_target(name, None, {}), Path(folder) / f"{name}.pt")
            for name in registry.names()
        ]
        url = stack.enter_context(running_server([archive.path for archive in archives]))
        client = stack.enter_context(Client(url))
        for archive in archives:
            measures = runtimes(archive, client)
            taken: dict[str, list[float]] = {name: [] for name in measures}
            for _ in track(range(rounds), archive.require_manifest().name, transient=True):
                for name, measure in measures.items():
                    taken[name].append(measure())
            figures[archive.require_manifest().name] = {
                name: statistics.median(values) for name, values in taken.items()
            }
    Console().print(table(figures, rounds))
    if json_output:
        json_output.write_text(json.dumps(figures, indent=1))


def runtimes(archive: Archive, client: Client) -> dict[str, Callable[[], float]]:
    """Return, for each runtime, a function that measures its p50 in microseconds."""
    manifest = archive.require_manifest()
    method, inputs = batch_inputs(manifest, archive.golden, 1)
    eager = Program(manifest, make_module(manifest.source))
    scripted = archive.program()

    def in_process(program: Program) -> Callable[[], float]:
        return lambda: median_us(lambda: program.call(method, inputs))

    def cpp() -> float:
        command = [str(runner_path()), "bench", str(archive.path), "--method", method, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        p50: float = json.loads(done.stdout)["results"][0]["p50_us"]
        return p50

    def http(binary: bool) -> Callable[[], float]:
        def call() -> Flat:
            return client.infer(
                manifest.name, manifest.methods[method], inputs, method, binary=binary
            )

        return lambda: median_us(call)

    return {
        "eager": in_process(eager),
        "script": in_process(scripted),
        "C++": cpp,
        "HTTP binary": http(True),
        "HTTP JSON": http(False),
    }


def table(figures: dict[str, dict[str, float]], rounds: int) -> Table:
    """Return the figures as a table, with the ratio to eager."""
    names = list(next(iter(figures.values())))
    shown = Table(
        "model",
        *(f"{name} µs (x eager)" for name in names),
        title=f"p50 at batch 1, torch {torch.__version__}, 1 thread, median of {rounds} rounds",
        title_justify="left",
    )
    for model, values in figures.items():
        shown.add_row(
            model, *(f"{values[name]:.0f} ({values[name] / values['eager']:.2f})" for name in names)
        )
    return shown


if __name__ == "__main__":
    typer.run(main)

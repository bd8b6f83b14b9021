"""Rows per second of the runner beside eager Python and TorchScript, by batch size: `make bench`.

Every round measures eager, script and C++ once, in turn, so that a noisy moment of the machine hits
all of them. The rows per second follow from the median of the rounds' medians; the ratio to eager
is the median of the rounds' ratios. The runner must not be slower than eager at any size: where its
ratio is below 1, the row says `slower`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from torchship.cpp_runner.binary import environment, runner_path
from torchship.models import registry
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target, make_module
from torchship.script.runtime import torchscript
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.batch import batch_inputs
from torchship.script.runtime.program import Program

BATCHES = (1, 32, 256)
WARM_UP = 5  # calls
Measure = Callable[[], float]


def main(
    models: Annotated[list[str] | None, typer.Argument(help="all, if none is named")] = None,
    rounds: int = 7,
    seconds: Annotated[float, typer.Option(help="of each runtime in each round")] = 0.3,
    runner: Annotated[Path | None, typer.Option(help="another torchship-runner")] = None,
    json_output: Path | None = None,
) -> None:
    """Print the table; write the figures as JSON too if a path is given."""
    torchscript.configure()
    binary = runner or runner_path()
    figures: dict[str, dict[int, dict[str, list[float]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in models or registry.names():
            archive = export(find_target(name, None, {}), Path(folder) / f"{name}.pt")
            for batch in BATCHES:
                measures = runtimes(archive, batch, seconds, binary)
                taken: dict[str, list[float]] = {runtime: [] for runtime in measures}
                for _ in track(range(rounds), f"{name}, batch {batch}", transient=True):
                    for runtime, measure in measures.items():
                        taken[runtime].append(measure())
                figures.setdefault(name, {})[batch] = taken
    Console().print(table(figures, rounds))
    if json_output:
        json_output.write_text(json.dumps(figures, indent=1))


def runtimes(archive: Archive, batch: int, seconds: float, binary: Path) -> dict[str, Measure]:
    """Return, for each runtime, a function that measures its p50 in microseconds."""
    manifest = archive.require_manifest()
    method, inputs = batch_inputs(manifest, archive.golden, batch)
    programs = {
        "eager": Program(manifest, make_module(manifest.source)),
        "script": archive.program(),
    }

    def in_process(program: Program) -> Measure:
        return lambda: median_us(lambda: program.call(method, inputs), seconds)

    def cpp() -> float:
        command = [str(binary), "bench", str(archive.path), "--method", method, "--json"]
        # The other half of its time goes to the bare loop that it compares with.
        command += ["--batch", str(batch), "--seconds", str(2 * seconds), "--rounds", "2"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment(binary)
        )
        p50: float = json.loads(done.stdout)["results"][0]["p50_us"]
        return p50

    return {name: in_process(program) for name, program in programs.items()} | {"C++": cpp}


def median_us(call: Callable[[], object], seconds: float) -> float:
    """Return the median duration of the calls in so many seconds, after a warm-up."""
    for _ in range(WARM_UP):
        call()
    durations: list[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while not durations or time.perf_counter_ns() < end:
        start = time.perf_counter_ns()
        call()
        durations.append(time.perf_counter_ns() - start)
    return statistics.median(durations) / 1000


def ratio(taken: dict[str, list[float]], name: str) -> float:
    """Return the rows that a runtime computes while eager computes one."""
    return statistics.median(
        eager / own for eager, own in zip(taken["eager"], taken[name], strict=True)
    )


def table(figures: dict[str, dict[int, dict[str, list[float]]]], rounds: int) -> Table:
    """Return rows per second by model and batch size, with the ratio to eager."""
    shown = Table(
        title=f"rows/s (x eager), torch {torch.__version__}, 1 thread, median of {rounds} rounds",
        title_justify="left",
    )
    for heading in ("model", "batch", "eager", "script", "C++", ""):
        shown.add_column(
            heading, justify="left" if heading in ("model", "") else "right", no_wrap=True
        )
    for model, sizes in figures.items():
        for batch, taken in sizes.items():
            cells = []
            for name, times in taken.items():
                rows = f"{batch / statistics.median(times) * 1e6:,.0f}"
                cells.append(rows if name == "eager" else f"{rows} ({ratio(taken, name):.2f})")
            slower = "slower" if ratio(taken, "C++") < 1 else ""
            shown.add_row(model, str(batch), *cells, slower)
    return shown


if __name__ == "__main__":
    typer.run(main)

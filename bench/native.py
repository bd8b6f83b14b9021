"""What compiled models must show beside LibTorch and other runtimes: `make bench`.

Everything is measured in one run: each round measures every contender once, in turn, so that a
noisy moment of the machine hits all of them, and the ratios are medians over the rounds. Each
contender has one thread. Native code is timed from C, as a program that links it would call it;
the runner by its own `bench`; node inside node; the others from Python, as their users call them.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from side_by_side import machine, peers
from side_by_side.groups import GROUPS, Group
from side_by_side.lineup import Lineup
from side_by_side.plot import plot
from side_by_side.report import show, write_markdown
from side_by_side.results import Results, load, save
from side_by_side.rounds import measure_rounds
from side_by_side.subjects import prepare

from torchship.script.runtime import torchscript

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PLOTTED = "moba"


def main(
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    seconds: Annotated[float, typer.Option(help="Of each contender in each round.")] = 0.1,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"These groups: {', '.join(group.name for group in GROUPS)}."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="[default: bench/results/<this machine>.json, if complete]")
    ] = None,
    given: Annotated[
        Path | None, typer.Option("--from", help="Show a run that was measured before.")
    ] = None,
    plot_to: Annotated[
        Path | None, typer.Option("--plot", help="Draw moba's latencies: .svg or .png.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write the tables into this page, between its markers.")
    ] = None,
) -> None:
    """Measure, print every target with what was reached, and keep the figures as JSON.

    Examples:

        python bench/native.py --only moba --rounds 3

        python bench/native.py --from bench/results/x.json --markdown docs/native.md
    """
    console = Console()
    unknown = set(only or ()) - {group.name for group in GROUPS}
    if unknown:
        raise typer.BadParameter(f"no group '{unknown.pop()}'", param_hint="--only")
    if given:
        results = load(given)
    else:
        groups = [group for group in GROUPS if not only or group.name in only]
        results = measure(groups, rounds, seconds, console)
        place = output or RESULTS / f"{machine.file_name(dict(results.machine))}.json"
        if output or not only:
            save(results, place)
            console.print(f"figures: {place}")
    show(results, console)
    if plot_to:
        plot(results, PLOTTED, plot_to)
    if markdown:
        write_markdown(results, markdown)


def measure(groups: list[Group], rounds: int, seconds: float, console: Console) -> Results:
    """Set everything up, and measure it in turn."""
    start, load_before = time.perf_counter(), machine.load_average()
    warnings.filterwarnings("ignore")  # those of exporters, about themselves
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    os.environ.setdefault("TORCHSHIP_NATIVE_CACHE", str(ROOT / "build" / "bench" / "native"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torchscript.configure()
    peers.configure()
    wanted = {name: False for group in groups for name in group.exported}
    wanted |= {name: True for group in groups for name in group.compiled}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        subjects = prepare(wanted, folder)
        console.print(f"{len(subjects)} models: set up in {time.perf_counter() - start:.0f} s")
        lineup = Lineup(folder, seconds, subjects, console, stack)
        for group in groups:
            group.enter(lineup)
        begun = time.perf_counter()
        measure_rounds(lineup.contenders, rounds, lineup.measured)
        end = time.perf_counter()
        console.print(f"{rounds} rounds of {len(lineup.contenders)}: {end - begun:.0f} s")
    run = {
        "rounds": rounds,
        "seconds": seconds,
        "minutes": round((end - start) / 60, 1),
        "load before": load_before,
        "load after": machine.load_average(),
    }
    rows = [row for group in groups for row in group.rows]
    return Results(
        *(machine.describe(), machine.versions(), run),
        *(lineup.measured.figures, lineup.measured.unmeasured, rows),
    )


if __name__ == "__main__":
    typer.run(main)

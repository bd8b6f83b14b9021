"""How long a process of `torchship-runner` takes: start, one step, end.

python bench/start.py [ARCHIVE] [--rounds N]

Before: a console script in Python, and the end of LibTorch's static objects. After: a shell that
becomes the binary, which ends when its answer is written. Processes of both take turns.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from torchship.cpp_runner.binary import runner_path
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target

SCRIPT = Path(sys.executable).with_name("torchship-runner")
TEARDOWN = {"TORCHSHIP_TEARDOWN": "1"}


def milliseconds(command: list[str], line: bytes, variables: dict[str, str]) -> tuple[float, float]:
    """By the clock, and of a processor: that hardly depends on what else the machine does."""
    used, began = processor_seconds(), time.perf_counter()
    subprocess.run(
        command, input=line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | variables,
    )  # fmt: skip
    return (time.perf_counter() - began) * 1e3, (processor_seconds() - used) * 1e3


def processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(
    archive: Annotated[Path | None, typer.Argument(help="fizzbuzz or one like it.")] = None,
    rounds: int = 20,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if archive is None:
            archive = Path(folder) / "fizzbuzz.pt"
            export(find_target("fizzbuzz", None, {}), archive)
        step = ["run", str(archive), "--input", "-"]
        line = json.dumps({"x": [[0] * 10]}).encode() + b"\n"
        binary = str(runner_path())
        in_python = [sys.executable, "-m", "torchship.cpp_runner.binary"]
        kinds: dict[str, tuple[list[str], dict[str, str]]] = {
            "torchship-runner, before": ([*in_python, *step], TEARDOWN),
            "torchship-runner, after": ([str(SCRIPT), *step], {}),
            "the binary itself, before": ([binary, *step], TEARDOWN),
            "the binary itself, after": ([binary, *step], {}),
            "the binary, --help alone": ([binary, "--help"], {}),
            "a Python that does nothing": ([sys.executable, "-c", "pass"], {}),
        }
        times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, (command, variables) in kinds.items():
                times[kind].append(milliseconds(command, line, variables))
    table = Table("start, one step, end", "median ms", "fastest ms", "processor ms")
    for kind, found in times.items():
        clock, processor = zip(*found, strict=True)
        table.add_row(kind, f"{median(clock):.0f}", f"{min(clock):.0f}", f"{median(processor):.0f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)

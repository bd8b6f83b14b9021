"""What runs in processes of its own: torchship-runner, node, and programs from start to end."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from torchship.cpp_runner.binary import environment, runner_path
from torchship.native.building.toolchain import FLAGS, compiler
from torchship.native.cli import write_project
from torchship.native.compiler import compile_archive
from torchship.script.runtime.archive import Archive

LAUNCH = Path(__file__).with_name("launch.c")
STARTS = 5  # in a round


class Runner:
    """Figures of `torchship-runner bench`; a process gives those of all batch sizes at once."""

    def __init__(
        self,
        archive: Archive,
        method: str,
        batches: Sequence[int],
        seconds: float,
        native: Path | None = None,
    ) -> None:
        """Measure each batch size for so many seconds; a library too, if there is one."""
        self._binary = runner_path()
        measured = 2 if native is None else 3  # the bare loop is timed too
        self._command = [
            *(str(self._binary), "bench", str(archive.path), "--method", method, "--json"),
            *("--batch", ",".join(map(str, batches)), "--rounds", "1"),
            *("--seconds", str(seconds * measured)),
            *(("--native", str(native)) if native else ()),
        ]
        self._figures: dict[str, float] = {}

    def measure(self, key: str) -> Callable[[], float]:
        """Return a measure of one figure: `32`, or `32 native`.

        The first whose figure was taken already starts the process of the next round.
        """

        def figure() -> float:
            if key not in self._figures:
                self._run()
            return self._figures.pop(key)

        return figure

    def _run(self) -> None:
        done = subprocess.run(
            self._command, capture_output=True, text=True, env=environment(self._binary)
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        for result in json.loads(done.stdout)["results"]:
            self._figures[str(result["batch"])] = result["p50_us"]
            if "native" in result:
                self._figures[f"{result['batch']} native"] = result["native"]["p50_us"]


class Start:
    """A program from its start to its end, which is that of its first answer."""

    def __init__(self, launcher: Path, command: Sequence[str], given: Path, starts: int) -> None:
        """Start the program through the compiled launch.c, with a file as its input."""
        self._command = [str(launcher), str(given), *command]
        self._starts = starts
        self._megabytes: list[float] = []

    def milliseconds(self) -> float:
        """Return the median duration of a few starts."""
        found = []
        for _ in range(self._starts):
            done = subprocess.run(self._command, capture_output=True, text=True, check=True)
            duration, kibibytes = done.stdout.split()
            found.append(float(duration))
            self._megabytes.append(int(kibibytes) * 1024 / 1e6)
        return statistics.median(found)

    def megabytes(self) -> float:
        """Return the median of the most memory that the last starts had resident."""
        if not self._megabytes:
            self.milliseconds()
        found = statistics.median(self._megabytes)
        self._megabytes.clear()
        return found


def build_launcher(folder: Path) -> Path:
    """Compile launch.c."""
    target = folder / "launch"
    subprocess.run([compiler(), "-O2", str(LAUNCH), "-o", str(target)], check=True)
    return target


def build_example(archive: Archive, folder: Path) -> Path:
    """Compile the program that `torchship compile --strip` writes: it prints one call's outputs."""
    project = write_project(compile_archive(archive, golden=False), folder / "example")
    sources = [str(path) for path in project.glob("*.c")]
    target = project / "example"
    subprocess.run([compiler(), *FLAGS, *sources, "-o", str(target), "-lm"], check=True)
    return target

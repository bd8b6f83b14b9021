"""Collects the contenders of a run; one that cannot be set up is noted, with the reason."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from side_by_side.native_calls import build_harness, native_call
from side_by_side.peers import check
from side_by_side.rounds import Contender, Measured, median_us, one_line
from side_by_side.subjects import Subject
from torchship.script.format.tree import Flat

Measures = Mapping[str, Callable[[], float]]
NATIVE = "native"


@dataclass
class Lineup:
    """Contenders, and what setting them up needs; `stack` closes what they opened."""

    folder: Path
    seconds: float  # of each contender in each round
    subjects: Mapping[str, Subject]
    console: Console
    stack: ExitStack
    contenders: list[Contender] = field(default_factory=list)
    measured: Measured = field(default_factory=Measured)
    harness: ctypes.CDLL = field(init=False)

    def __post_init__(self) -> None:
        self.harness = build_harness(self.folder)

    def add(self, prefix: str, names: Sequence[str], make: Callable[[], Measures]) -> None:
        """Add the measures that `make` returns under `prefix/name`; `names` are all it may have."""
        start = time.perf_counter()
        try:
            with self.console.status(f"setting up {prefix}: {', '.join(names)}"):
                measures = make()
        except ImportError as error:
            reason = f"not installed: {error.name or error}"
            self.measured.unmeasured |= {f"{prefix}/{name}": reason for name in names}
            return
        except Exception as error:
            self.measured.unmeasured |= {f"{prefix}/{name}": one_line(error) for name in names}
            return
        for name, measure in measures.items():
            self.contenders.append(Contender(f"{prefix}/{name}", measure))
        taken = time.perf_counter() - start
        if taken > 5:
            self.console.print(f"{prefix}: {', '.join(names)}: set up in {taken:.0f} s")

    def add_calls(
        self, prefix: str, names: Sequence[str], make: Callable[[], Mapping[str, Callable[[], Any]]]
    ) -> None:
        """Add Python calls, timed in torch's inference mode."""
        self.add(prefix, names, lambda: {name: self.timed(call) for name, call in make().items()})

    def add_call(self, prefix: str, name: str, call: Callable[[], Any]) -> None:
        """Add one Python call that needs no set-up."""
        self.add_calls(prefix, (name,), lambda: {name: call})

    def timed(self, call: Callable[[], Any]) -> Callable[[], float]:
        """Return a measure of a Python call's median duration, in microseconds."""

        def measure() -> float:
            with torch.inference_mode():
                return median_us(call, self.seconds)

        return measure

    def add_native(
        self,
        prefix: str,
        subject: Subject,
        inputs: Flat,
        expected: Sequence[torch.Tensor],
        library: Callable[[], Path] | None = None,
        name: str = NATIVE,
        own_error: float = 0.0,
    ) -> None:
        """Add a compiled method `forward`, timed from C, after a look at its outputs."""

        def make() -> Measures:
            path = library() if library else subject.library
            if path is None:
                raise RuntimeError(subject.error)
            signature = subject.archive.require_manifest().methods["forward"]
            call = native_call(path, "forward", signature, inputs)
            check(expected, list(call.run().values()), own_error)
            return {name: lambda: call.median_us(self.harness, self.seconds)}

        self.add(prefix, (name,), make)

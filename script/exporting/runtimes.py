"""The runtimes that `verify` checks: eager and script here, C++ and HTTP in their own packages."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from torchship.script.exporting.target import is_ours, make_module
from torchship.script.runtime import process_defaults
from torchship.script.runtime.agreement import Difference, check_case
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.batch import batch_inputs
from torchship.script.runtime.program import Program

WARM_UP = 20
CALLS = 300


@dataclass(frozen=True)
class Result:
    """A runtime's differences from the golden cases; `error` says why it could not run.

    `skipped` is a runtime that this machine or this model does not have: it does not disagree.
    """

    runtime: str
    differences: list[Difference] = field(default_factory=list)
    p50_us: float | None = None
    error: str = ""
    skipped: bool = False

    @property
    def agreed(self) -> bool:
        """Whether every output of every golden case agreed; False if the runtime did not run."""
        return not self.error and bool(self.differences) and all(d.agreed for d in self.differences)


class Runtime(Protocol):
    """A way to run an archive."""

    name: str

    def check(self, archive: Archive) -> Result:
        """Run every golden case and measure the latency at batch 1.

        Raises:
            TorchShipError: the runtime cannot run the archive.
        """
        ...


class EagerRuntime:
    """The eager module, created by the factory that the manifest names."""

    name = "eager"

    def __init__(self, consent: str | None = None, skip_foreign: bool = False) -> None:
        """Take the factory that may be called whatever module it is in.

        With `skip_foreign`, an archive that names another one, not of our own models, is skipped.
        """
        self._consent = consent
        self._skip_foreign = skip_foreign

    def check(self, archive: Archive) -> Result:
        """Run the golden cases in the eager module."""
        manifest = archive.require_manifest()
        factory = manifest.source.factory
        if self._skip_foreign and factory != self._consent and not is_ours(factory):
            why = (
                f"the archive names '{factory}', which is not ours, and no signature vouches for it"
            )
            return Result(self.name, error=why, skipped=True)
        module = make_module(manifest.source, self._consent)
        with process_defaults.torch_defaults():
            return _in_process(self.name, archive, Program(manifest, module.eval()))


class ScriptRuntime:
    """The archive's TorchScript module, loaded in this process."""

    name = "script"

    def check(self, archive: Archive) -> Result:
        """Run the golden cases in the loaded module."""
        return _in_process(self.name, archive, archive.program())


def _in_process(name: str, archive: Archive, program: Program) -> Result:
    differences = [
        difference
        for number, case in enumerate(archive.golden)
        for difference in check_case(archive.require_manifest(), number, case, program.call)
    ]
    method, inputs = batch_inputs(archive.require_manifest(), archive.golden, 1)
    return Result(name, differences, median_us(lambda: program.call(method, inputs)))


def median_us(call: Callable[[], object]) -> float:
    """Return the median duration of a call in microseconds, after a warm-up."""
    for _ in range(WARM_UP):
        call()
    durations = []
    for _ in range(CALLS):
        start = time.perf_counter_ns()
        call()
        durations.append(time.perf_counter_ns() - start)
    return statistics.median(durations) / 1000

"""What `verify` tells while it runs: a line of JSON for each event (docs/page.md)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from torchship.agreement_report import Report, result_to_json
from torchship.script.exporting.runtimes import Result, Runtime
from torchship.script.format.manifest import Manifest


class Lines:
    """Gives each event to `write`, as a line."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write

    def begin(self, manifest: Manifest, runtimes: Sequence[Runtime]) -> None:
        """Tell what will be run."""
        self._tell(
            "begin",
            name=manifest.name,
            version=manifest.version,
            golden_cases=len(manifest.golden),
            runtimes=[runtime.name for runtime in runtimes],
        )

    def began(self, runtime: Runtime) -> None:
        """Tell that a runtime begins."""
        self._tell("runtime", runtime=runtime.name, state="running")

    def ended(self, result: Result) -> None:
        """Tell what a runtime gave."""
        self._tell("runtime", state="done", **result_to_json(result))

    def verdict(self, report: Report) -> None:
        """Tell whether all of them agree."""
        self._tell(
            "verdict",
            agreed=report.agreed,
            first_difference=report.first_difference,
            note=report.note,
        )

    def error(self, error: Exception) -> None:
        """Tell why there is no verdict."""
        self._tell("error", error=str(error))

    def _tell(self, event: str, **said: object) -> None:
        self._write(json.dumps({"event": event, **said}))

"""What `verify` found, as JSON and as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from torchship.native.running.trace import Intermediate
from torchship.script.exporting.runtimes import Result
from torchship.script.runtime.agreement import Difference, worse
from torchship.script.runtime.archive import Archive


@dataclass(frozen=True)
class Report:
    """The results of all runtimes for one archive."""

    archive: Archive
    results: list[Result]
    first_difference: str = ""
    note: str = ""
    """A note about this process that may explain a difference, or ""."""
    trace: Sequence[Intermediate] | None = None
    """The tensors on the way to the outputs in compiled C, if they were asked for."""

    @property
    def agreed(self) -> bool:
        """Whether every runtime ran and agreed, apart from those that were skipped."""
        return all(result.agreed or result.skipped for result in self.results)

    def to_json(self) -> dict[str, object]:
        """Return the report as a JSON object, with the largest difference of each output."""
        manifest = self.archive.require_manifest()
        return {
            "archive": self.archive.path.name,
            "name": manifest.name,
            "version": manifest.version,
            "agreed": self.agreed,
            "golden_cases": len(manifest.golden),
            "first_difference": self.first_difference,
            "note": self.note,
            **({} if self.trace is None else {"trace": [_finite(asdict(i)) for i in self.trace]}),
            "runtimes": [result_to_json(result) for result in self.results],
        }


def result_to_json(result: Result) -> dict[str, object]:
    """Return what a runtime gave as a JSON object, with the largest difference of each output."""
    return {
        "runtime": result.runtime,
        "agreed": result.agreed,
        "error": result.error,
        "skipped": result.skipped,
        "p50_us": result.p50_us,
        "outputs": [_finite(d.to_json()) for d in worst_by_output(result)],
    }


def _finite(entry: dict[str, object]) -> dict[str, object]:
    """Replace infinite differences, which JSON cannot carry, by null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in entry.items()
    }


def worst_by_output(result: Result) -> list[Difference]:
    """Return the largest difference of each method's output, over all cases and steps."""
    worst: dict[tuple[str, str], Difference] = {}
    for difference in result.differences:
        key = (difference.method, difference.output)
        worst[key] = worse(worst[key], difference) if key in worst else difference
    return list(worst.values())


def print_report(report: Report, console: Console) -> None:
    """Print a report as a table, what differs, and the verdict."""
    manifest = report.archive.require_manifest()
    table = Table(
        *("runtime", "method", "output", "max abs", "max rel", "max ULP", "identical", "p50 µs"),
        title=f"{manifest.name} {manifest.version}: {len(manifest.golden)} golden cases",
        title_justify="left",
    )
    for result in report.results:
        for index, entry in enumerate(worst_by_output(result)):
            latency = "" if index or result.p50_us is None else f"{result.p50_us:.0f}"
            table.add_row(
                *(result.runtime if index == 0 else "", entry.method, escape(entry.output)),
                *(number(entry.max_abs), number(entry.max_rel), number(entry.max_ulp)),
                *("yes" if entry.bit_identical else "no", latency),
                style=None if entry.agreed else "red",
            )
        if result.error:
            skipped = result.skipped
            table.add_row(
                result.runtime,
                "",
                "skipped" if skipped else "did not run",
                style=None if skipped else "red",
            )
    console.print(table)
    for result in report.results:
        if result.skipped:
            console.print(escape(f"{result.runtime} was skipped: {result.error}"), soft_wrap=True)
    for line in _complaints(report):
        console.print(escape(line), style="red", soft_wrap=True)
    if report.trace is not None:
        _print_trace(report.trace, console)
    console.print("agreed" if report.agreed else "NOT AGREED")


def _print_trace(found: Sequence[Intermediate], console: Console) -> None:
    """Print the tensors on the way, in the order in which they are computed."""
    table = Table(
        *("method", "line", "name", "operator", "shape", "max abs", "of"),
        title="native against TorchScript, tensor by tensor",
        title_justify="left",
    )
    for entry in found:
        table.add_row(
            *(entry.method, escape(entry.where), escape(entry.name), entry.operator),
            *(escape(str(list(entry.shape))), number(entry.difference), number(entry.largest)),
            style=None if entry.agreed else "red",
        )
    console.print(table)
    first = next((entry for entry in found if not entry.agreed), None)
    if first is None:
        console.print("every tensor of the trace agrees")
        return
    text = (
        f"first tensor that differs: {first.name} = {first.operator} in {first.where}, method "
        f"{first.method}, {first.case}: by {number(first.difference)}"
    )
    console.print(escape(text), style="red", soft_wrap=True)


def _complaints(report: Report) -> list[str]:
    lines = []
    for result in report.results:
        if result.error and not result.skipped:
            lines.append(f"{result.runtime}: {result.error}")
        lines += [
            f"{result.runtime}: {d.case_name}, step {d.step}, output '{d.output}': {d.reason}"
            for d in worst_by_output(result)
            if not d.agreed
        ]
    if report.first_difference:
        lines.append(report.first_difference)
    if report.note:
        lines.append(f"note: {report.note}")
    return lines


def number(value: float | None) -> str:
    """Return a difference for a table; `-` if nothing could be compared."""
    if value is None:
        return "-"
    return "0" if value == 0 else f"{value:.3g}"

"""What a run has measured, as a file that tables and plots are made from."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from side_by_side.targets import Outcome, Row, outcome


@dataclass(frozen=True)
class Results:
    """A run: where, with what, every figure by key and round, and the rows that it was to show."""

    machine: Mapping[str, str]
    versions: Mapping[str, str]
    run: Mapping[str, Any]  # rounds, seconds, load averages
    figures: Mapping[str, Sequence[float]]
    unmeasured: Mapping[str, str]
    rows: Sequence[Row]

    def outcomes(self) -> list[Outcome]:
        """Return every row with its value and verdict."""
        return [outcome(row, self.figures, self.unmeasured) for row in self.rows]

    def median(self, key: str) -> float | None:
        """Return the median of a figure over the rounds; None if it was not measured."""
        return statistics.median(self.figures[key]) if key in self.figures else None


def save(results: Results, path: Path) -> None:
    """Write a run as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": dict(results.machine),
        "versions": dict(results.versions),
        "run": dict(results.run),
        "rows": [asdict(found) for found in results.outcomes()],
        "figures": {
            key: {"median": rounded(statistics.median(values)), "rounds": [*map(rounded, values)]}
            for key, values in results.figures.items()
        },
        "not measured": dict(results.unmeasured),
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> Results:
    """Read a run; its outcomes are computed anew."""
    document = json.loads(path.read_text())
    rows = [
        Row(**{**entry["row"], "others": tuple(entry["row"]["others"])})
        for entry in document["rows"]
    ]
    figures = {key: entry["rounds"] for key, entry in document["figures"].items()}
    return Results(
        *(document["machine"], document["versions"], document["run"]),
        *(figures, document["not measured"], rows),
    )


def rounded(value: float) -> float:
    """Return a figure with five digits: more would be noise."""
    return float(f"{value:.5g}")

"""What must be shown: rows with a bound, and whether the figures of a run reach it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Relation = Literal["time", "speed", "figure"]
Verdict = Literal["reached", "missed", "not measured"]


@dataclass(frozen=True)
class Row:
    """One bound. Figures have keys such as `moba/1/native`, and are times unless `unit` says more.

    `time`: own time / the time of the fastest of `others`, at most `bound`.
    `speed`: the time of the fastest of `others` / own time, at least `bound`.
    `figure`: the own figure itself, at most `bound`.
    """

    work: str
    own: str
    relation: Relation
    bound: float
    others: tuple[str, ...] = ()
    unit: str = "µs"
    against: str = ""  # what `others` are called, if not by their runtimes


@dataclass(frozen=True)
class Outcome:
    """A row after a run: its value, the quartiles over the rounds, and both sides' medians."""

    row: Row
    verdict: Verdict
    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    own: float = 0.0
    best: str = ""
    other: float = 0.0
    reason: str = ""


def outcome(
    row: Row, figures: Mapping[str, Sequence[float]], unmeasured: Mapping[str, str]
) -> Outcome:
    """Compare a row's figures round by round; the value is the median over the rounds.

    A peer that could not be measured is left out of the comparison. The row is not measured when
    its own figure is missing, or all peers are.
    """
    if row.own not in figures:
        return Outcome(row, "not measured", reason=_reason(row.own, unmeasured))
    own = figures[row.own]
    known = [key for key in row.others if key in figures]
    if row.relation == "figure":
        values, best, other = list(own), "", 0.0
    elif not known:
        reasons = "; ".join(_reason(key, unmeasured) for key in row.others)
        return Outcome(row, "not measured", reason=reasons)
    else:
        best = min(known, key=lambda key: statistics.median(figures[key]))
        other = statistics.median(figures[best])
        pairs = list(zip(own, figures[best], strict=True))
        values = [a / b for a, b in pairs] if row.relation == "time" else [b / a for a, b in pairs]
    value = statistics.median(values)
    low, high = quartiles(values)
    reached = value >= row.bound if row.relation == "speed" else value <= row.bound
    missing = [_reason(key, unmeasured) for key in row.others if key not in figures]
    return Outcome(
        *(row, "reached" if reached else "missed", value, low, high),
        *(statistics.median(own), best, other, "; ".join(missing)),
    )


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the lower and the upper quartile; of a single value, itself twice."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def bound_text(row: Row) -> str:
    """Return a row's bound as text, for example `≤ 0.20 x ONNX Runtime`."""
    if row.relation == "figure":
        return f"≤ {row.bound:g} {row.unit}"
    names = list(dict.fromkeys(runtime_of(key) for key in row.others))
    against = row.against or (names[0] if len(names) == 1 else f"the best of {', '.join(names)}")
    sign = "≥" if row.relation == "speed" else "≤"
    return f"{sign} {row.bound:.2f} x {against}"


def runtime_of(key: str) -> str:
    """Return the name of the runtime in a key: what is behind the last stroke, without variants."""
    return key.rpartition("/")[2].partition(" (")[0]


def _reason(key: str, unmeasured: Mapping[str, str]) -> str:
    return f"{key}: {unmeasured.get(key, 'left out of this run')}"

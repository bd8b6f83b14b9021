"""Measures contenders in turn, round after round, so that a noisy moment hits all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.progress import track

WARM_UP = 3  # calls
FEWEST = 3


@dataclass(frozen=True)
class Contender:
    """Something that is measured once in each round: in microseconds, or in its row's unit."""

    key: str
    measure: Callable[[], float]


@dataclass
class Measured:
    """Figures by key and round, and why others have none."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    unmeasured: dict[str, str] = field(default_factory=dict)


def measure_rounds(contenders: Sequence[Contender], rounds: int, measured: Measured) -> None:
    """Measure every contender once a round, every other round backwards.

    A contender that fails is left out of the figures, with its error as the reason.
    """
    order = list(contenders)
    for number in range(rounds):
        for one in track(order, f"round {number + 1} of {rounds}", transient=True):
            if one.key in measured.unmeasured:
                continue
            try:
                measured.figures.setdefault(one.key, []).append(one.measure())
            except Exception as error:  # one runtime's fault is no reason to lose the run
                measured.figures.pop(one.key, None)
                measured.unmeasured[one.key] = one_line(error)
        order.reverse()


def median_us(call: Callable[[], object], seconds: float) -> float:
    """Return the median duration of a Python call, in microseconds, over so many seconds."""
    for _ in range(WARM_UP):
        call()
    durations: list[int] = []
    end = time.perf_counter_ns() + int(seconds * 1e9)
    while len(durations) < FEWEST or time.perf_counter_ns() < end:
        start = time.perf_counter_ns()
        call()
        durations.append(time.perf_counter_ns() - start)
    return statistics.median(durations) / 1000


def one_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message, shortened."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"

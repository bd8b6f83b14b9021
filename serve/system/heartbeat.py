"""What a process shows its watchdog: that its event loop turns, and which call it is in.

The watchdog is another process, since a model may hold the event loop, and Python's lock too. It
reads a few numbers in memory that both have.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass

BEAT, CALL, BEGAN, LOADS = range(4)
CELLS = 4
"""Numbers of one pulse, of 64 bits; `BEAT` and `BEGAN` are on `time.monotonic_ns`'s clock."""


@dataclass(frozen=True)
class Shown:
    """What a pulse showed when it was looked at; times in seconds on `time.monotonic`'s clock."""

    beat: float
    """When the event loop last turned; 0 before its first turn."""
    call: int
    """The number of the engine whose model runs on the event loop now; 0 for none."""
    began: float
    """When that call began."""
    loads: int
    """How many archives are being loaded."""


PULSE_BYTES = 8 * CELLS


class Heartbeat:
    """One process's numbers; the process writes them and its watchdog reads them."""

    def __init__(self, cells: MutableSequence[int] | memoryview[int] | None = None) -> None:
        """Write to these cells, or to some that nobody else sees."""
        self._cells: MutableSequence[int] = [0] * CELLS if cells is None else cells  # type: ignore[assignment]

    @staticmethod
    def at(descriptor: int) -> Heartbeat:
        """Return the pulse in the memory of an open file of `PULSE_BYTES`."""
        return Heartbeat(memoryview(mmap.mmap(descriptor, PULSE_BYTES)).cast("q"))

    def beat(self) -> None:
        """Show that the event loop turns."""
        self._cells[BEAT] = time.monotonic_ns()

    def enter(self, engine: int) -> None:
        """Show that the model of that engine, a number above 0, runs on the event loop."""
        self._cells[BEGAN] = time.monotonic_ns()
        self._cells[CALL] = engine

    def leave(self) -> None:
        """Show that the call has ended."""
        self._cells[CALL] = 0

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Show, for as long as the block lasts, that an archive is being loaded."""
        self._cells[LOADS] += 1
        try:
            yield
        finally:
            self._cells[LOADS] -= 1

    def shown(self) -> Shown:
        """Return what the numbers say now."""
        beat, call, began, loads = (self._cells[n] for n in range(CELLS))
        return Shown(beat / 1e9, call, began / 1e9, loads)

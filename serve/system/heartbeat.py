"""The heartbeat of a worker: its watchdog sees that the event loop runs, and which model blocks it.

The watchdog is another process, because a model may hold the event loop and the GIL. It reads a few
numbers from memory that both processes map.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass

BEAT, CALL, BEGAN, LOADS = range(4)
CELLS = 4
"""64-bit numbers per heartbeat; `BEAT` and `BEGAN` are times of `time.monotonic_ns`."""


@dataclass(frozen=True)
class HeartbeatState:
    """A snapshot of a heartbeat; times are seconds of `time.monotonic`."""

    beat: float
    """When the event loop last ran; 0 before its first turn."""
    call: int
    """The number of the engine whose model is running on the event loop; 0 for none."""
    began: float
    """When that call began."""
    loads: int
    """How many archives are being loaded."""


HEARTBEAT_BYTES = 8 * CELLS


class Heartbeat:
    """The numbers of one process, which writes them; its watchdog reads them."""

    def __init__(self, cells: MutableSequence[int] | memoryview[int] | None = None) -> None:
        """Write to the given cells, or to private ones that no watchdog reads."""
        self._cells: MutableSequence[int] = [0] * CELLS if cells is None else cells  # type: ignore[assignment]

    @staticmethod
    def at(descriptor: int) -> Heartbeat:
        """Return the heartbeat in the memory of an open file of `HEARTBEAT_BYTES`."""
        return Heartbeat(memoryview(mmap.mmap(descriptor, HEARTBEAT_BYTES)).cast("q"))

    def beat(self) -> None:
        """Record that the event loop runs."""
        self._cells[BEAT] = time.monotonic_ns()

    def enter(self, engine: int) -> None:
        """Record that an engine's model (numbers start at 1) begins to run on the event loop."""
        self._cells[BEGAN] = time.monotonic_ns()
        self._cells[CALL] = engine

    def leave(self) -> None:
        """Record that the call has ended."""
        self._cells[CALL] = 0

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Record, for the length of the block, that an archive is being loaded."""
        self._cells[LOADS] += 1
        try:
            yield
        finally:
            self._cells[LOADS] -= 1

    def state(self) -> HeartbeatState:
        """Return a snapshot of the numbers."""
        beat, call, began, loads = (self._cells[n] for n in range(CELLS))
        return HeartbeatState(beat / 1e9, call, began / 1e9, loads)

"""Rate limits of API keys: token buckets, of one process or shared by all workers."""

from __future__ import annotations

import fcntl
import mmap
from collections.abc import Callable, Iterator, MutableSequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias, cast

CELL = 2  # float64 of each bucket: tokens that are used up, and when that was so
SLOTS = 1 << 16
TABLE_BYTES = SLOTS * CELL * 8

Clock = Callable[[], float]
Cell: TypeAlias = "MutableSequence[float] | memoryview[float]"
Lock = Callable[[], AbstractContextManager[None]]


class TokenBucket:
    """A number of requests per second; unused ones are kept for one second, not longer."""

    def __init__(
        self, rate: float, clock: Clock, cell: Cell | None = None, lock: Lock = nullcontext
    ) -> None:
        """Begin full, or as the cell says; zeros say full."""
        self._rate = rate
        self._most = max(rate, 1.0)
        self._clock = clock
        self._cell: Cell = [0.0] * CELL if cell is None else cell
        self._lock = lock

    def take(self) -> float:
        """Take a token; return 0, or the seconds until there is one."""
        with self._lock():
            now = self._clock()
            # At most so much, since the cell may be from a time when the rate was higher.
            used = min(self._most, self._cell[0])
            used = max(0.0, used - (now - self._cell[1]) * self._rate)
            wait = max(0.0, (used + 1 - self._most) / self._rate)
            cell = cast("MutableSequence[float]", self._cell)
            cell[0], cell[1] = used + (not wait), now
            return wait


class RateTable:
    """The cells of all rates of a server, in memory that its processes may share."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Use the memory of an open file of `TABLE_BYTES`, or some of this process's own."""
        self._descriptor = descriptor
        memory = (
            bytearray(TABLE_BYTES) if descriptor is None else mmap.mmap(descriptor, TABLE_BYTES)
        )
        self._cells = memoryview(memory).cast("d")

    def bucket(self, slot: int, rate: float, clock: Clock) -> TokenBucket:
        """Return the bucket of a slot, of which there are `SLOTS`.

        The clock must be one for all processes, as `time.monotonic` is. A process that dies holds
        nobody up: the system lets its lock go.
        """

        @contextmanager
        def lock() -> Iterator[None]:
            assert self._descriptor is not None
            place = (8 * CELL, 8 * CELL * slot)
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, *place)
            try:
                yield
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, *place)

        cell = self._cells[CELL * slot : CELL * (slot + 1)]
        return TokenBucket(rate, clock, cell, nullcontext if self._descriptor is None else lock)

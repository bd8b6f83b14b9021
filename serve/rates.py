"""How often a key may ask: token buckets, of one process or over all workers."""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TypeAlias, cast

CELL = 2  # float64 of each bucket: tokens that are used up, and when that was so

Clock = Callable[[], float]
Cell: TypeAlias = "MutableSequence[float] | memoryview[float]"
Lock = Callable[[], AbstractContextManager[None]]


class TokenBucket:
    """So many requests each second; what was not used is kept for one second, not longer."""

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
            used = max(0.0, self._cell[0] - (now - self._cell[1]) * self._rate)
            wait = max(0.0, (used + 1 - self._most) / self._rate)
            cell = cast("MutableSequence[float]", self._cell)
            cell[0], cell[1] = used + (not wait), now
            return wait


def shared_buckets(
    folder: Path, keys: Sequence[tuple[bytes, float]], clock: Clock
) -> list[TokenBucket]:
    """Return the bucket of each key, the same for all processes that name folder and keys alike.

    A key is its digest and its rate. The clock must be one for all processes, as `time.monotonic`
    is. A process that dies holds nobody up: the system lets its lock go.
    """
    size = max(1, len(keys)) * CELL * 8
    name = hashlib.sha256(repr(list(keys)).encode()).hexdigest()
    with open(folder / f"rates-{name}", "a+b") as file:
        os.truncate(file.fileno(), size)
        cells = memoryview(mmap.mmap(file.fileno(), size)).cast("d")
        number = os.dup(file.fileno())  # for as long as the process lives

    @contextmanager
    def lock() -> Iterator[None]:
        fcntl.lockf(number, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(number, fcntl.LOCK_UN)

    return [
        TokenBucket(rate, clock, cells[CELL * n : CELL * (n + 1)], lock)
        for n, (_, rate) in enumerate(keys)
    ]

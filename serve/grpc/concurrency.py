"""How many calls for one model have been under way at a time, of late."""

from __future__ import annotations

import time
from collections.abc import Callable

WINDOW_SECONDS = 0.05


class Concurrency:
    """Remembers the largest number of calls under way, for one to two windows."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls = 0
        self._most = 0  # in the window that ends next
        self._most_before = 0
        self._end = 0.0

    def enter(self) -> int:
        """Count a call that begins; return how many may be under way with it."""
        self._calls += 1
        now = self._clock()
        if now >= self._end:
            self._most_before = self._most if now < self._end + WINDOW_SECONDS else 0
            self._most = 0
            self._end = now + WINDOW_SECONDS
        self._most = max(self._most, self._calls)
        return max(self._most, self._most_before)

    def leave(self) -> None:
        """Count a call that has ended."""
        self._calls -= 1

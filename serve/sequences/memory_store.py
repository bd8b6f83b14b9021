"""The sequence store in this process's memory."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import inf

from torchship.serve.sequences.store import (
    SequenceKey,
    SequenceState,
    Store,
    Turn,
    TurnQueue,
    too_many,
)

# Expired ids to remember, to distinguish an expired sequence from an unknown one.
REMEMBERED = 4096


class MemoryStore(Store):
    """The sequences of one process; used from one event loop."""

    def __init__(
        self, idle_seconds: float, most: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._idle_seconds = idle_seconds
        self.most = most
        self._clock = clock
        # Sequences between two steps, with the time when they expire, in order of expiry.
        self._idle: OrderedDict[SequenceKey, tuple[float, SequenceState]] = OrderedDict()
        self._busy = 0
        self._expired: OrderedDict[SequenceKey, None] = OrderedDict()
        self._queue = TurnQueue()
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def turn(self, key: SequenceKey, opening: bool) -> AsyncIterator[Turn]:
        """See `Store.turn`."""
        async with self._queue.wait(key):
            turn = self._begin(key, opening)
            # A sequence that is in a turn is not in `_idle` and so cannot expire.
            counted = opening or turn.state is not None
            self._busy += counted
            try:
                yield turn
            finally:
                self._busy -= counted
                self._finish(key, turn)

    def _begin(self, key: SequenceKey, opening: bool) -> Turn:
        self.sweep()
        if key in self._idle:
            return Turn(self._idle.pop(key)[1])
        if opening and len(self._idle) + self._busy >= self.most:
            raise too_many(self.most)
        return Turn(None, key in self._expired)

    def _finish(self, key: SequenceKey, turn: Turn) -> None:
        if turn.changed:
            self._expired.pop(key, None)
        if turn.state is not None:
            self._idle[key] = (self._clock() + self._idle_seconds, turn.state)
            self._set_timer()

    async def live(self) -> int:
        """See `Store.live`."""
        self.sweep()
        return len(self._idle) + self._busy

    def sweep(self) -> None:
        """Free the sequences that have expired."""
        now = self._clock()
        while self._idle:
            key, (expires, _) = next(iter(self._idle.items()))
            if expires > now:
                break
            del self._idle[key]
            self._expired[key] = None
            if len(self._expired) > REMEMBERED:
                self._expired.popitem(last=False)

    def _set_timer(self) -> None:
        """Set a timer that frees expired sequences even if no more requests arrive."""
        if self._timer is None and self._idle_seconds < inf:
            expires, _ = next(iter(self._idle.values()))
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(expires - self._clock(), 0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.sweep()
        if self._idle:
            self._set_timer()

    async def close(self) -> None:
        """See `Store.close`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

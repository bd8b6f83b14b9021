"""Whether a model that runs on the event loop keeps it from turning for too long.

A model was put on the event loop since its calls were short. When one takes 20 times as long as
that, the reason may be the model, or that other processes have the processors. Two measures tell
these apart:

- Processor time of the thread is the model's own. One call that is over the limit is enough.
- A model that sleeps, or waits for a file or a lock, uses no processor. It is blocked for what is
  left of the wall time without the processor time and without the time in which the thread was
  ready and waited for a processor. A busy machine makes only the latter long. A single long wait
  may have another cause (the process was stopped, memory was swapped in), so several of the next
  calls must be over the limit.
"""

from __future__ import annotations

from torchship.serve.system.thread_clock import ThreadClock

SLOW_FACTOR = 20  # times the threshold: far more than what the same call varies by
WATCHED_CALLS = 100  # whose blocked time is measured after one call that took long
BLOCKED_CALLS = 3  # among them that are over the limit: the model does it again and again


class LoopCallMonitor:
    """Measures the calls of one model on the event loop's thread."""

    def __init__(self, threshold_seconds: float, clock: ThreadClock) -> None:
        """Allow a call `SLOW_FACTOR` times the threshold up to which models run on the loop."""
        self.limit_seconds = SLOW_FACTOR * threshold_seconds
        self._clock = clock
        self._processor = clock.processor
        self._wall = clock.wall
        self._watched = 0  # calls whose blocked time is still to be measured
        self._blocked = 0  # calls among those so far that were over the limit
        self._began = 0.0  # on the processor clock
        self._began_waiting: tuple[float, float | None] = 0.0, None  # wall and queued

    def begin(self) -> None:
        """Note that a call begins."""
        if self._watched:
            # Reading this takes several microseconds, so it is not done for every call.
            self._began_waiting = self._wall(), self._clock.queued()
        self._began = self._processor()

    def is_too_slow(self, began: float) -> bool:
        """Return whether the model should leave the event loop; asked after each call.

        Args:
            began: when the call's inputs were put together, on the wall clock.
        """
        # The processor clock is a system call, so it is only read when the wall clock, which is
        # not one, says that the call may have been slow.
        if self._wall() - began <= self.limit_seconds:
            if self._watched:
                self._watched -= 1
            return False
        used = self._processor() - self._began
        return used > self.limit_seconds or self._is_blocked_often(used)

    def _is_blocked_often(self, used: float) -> bool:
        if not self._watched:
            self._watched, self._blocked = WATCHED_CALLS, 0
            return False
        self._watched -= 1
        wall, queued_before = self._began_waiting
        queued = self._clock.queued()
        if queued is None or queued_before is None:
            return False  # it cannot be told from a busy machine
        blocked = self._wall() - wall - used - (queued - queued_before)
        if blocked > self.limit_seconds:
            self._blocked += 1
        return self._blocked >= BLOCKED_CALLS

"""How long the calling thread ran, waited for a processor, and waited for something else."""

from __future__ import annotations

import time
from typing import Protocol

SCHEDSTAT = "/proc/thread-self/schedstat"  # ns on a processor, ns in its queue, time slices


class ThreadClock(Protocol):
    """Clocks in seconds; only differences of their readings mean something."""

    def wall(self) -> float:
        """Return the time."""

    def processor(self) -> float:
        """Return how long the calling thread has run on a processor."""

    def queued(self) -> float | None:
        """Return how long the calling thread, ready to run, has waited for a processor.

        None where the system does not say. What is left of the time is how long the thread slept
        or waited for something else.
        """


class SystemThreadClock:
    """The clocks of the system."""

    wall = staticmethod(time.perf_counter)
    processor = staticmethod(time.thread_time)

    def __init__(self, schedstat: str = SCHEDSTAT) -> None:
        """Read the waits from that file, which Linux keeps for each thread."""
        self._schedstat = schedstat

    def queued(self) -> float | None:
        """Return how long the calling thread has waited for a processor; None if not on Linux."""
        try:
            with open(self._schedstat, "rb", buffering=0) as file:
                return int(file.read(100).split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return None

"""When a process has hung: what its pulse shows, held against the limits."""

from __future__ import annotations

from dataclasses import dataclass

from torchship.serve.system.heartbeat import Shown

LOOK_SECONDS = 0.25
LOADING = 10  # times as long may a process be silent that loads: LibTorch holds Python's lock


@dataclass(frozen=True)
class Watchdog:
    """The limits, in seconds: of one call of a model, and of the time that nobody is answered."""

    call_seconds: float
    stall_seconds: float

    def complaint(self, shown: Shown, now: float) -> str | None:
        """Return what is wrong with a process that showed this; None if it is well."""
        limit = min(self.call_seconds, self.stall_seconds)
        if shown.call and now - shown.began > limit:
            return f"a call took longer than {limit:g} s on the event loop"
        limit = self.stall_seconds * (LOADING if shown.loads else 1)
        if shown.beat and now - shown.beat > limit:
            return f"it answered nobody for {limit:g} s"
        return None

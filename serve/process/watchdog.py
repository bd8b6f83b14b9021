"""Decides from a worker's heartbeat whether it hangs."""

from __future__ import annotations

from dataclasses import dataclass

from torchship.serve.system.heartbeat import HeartbeatState

LOOK_SECONDS = 0.25
LOADING = 10  # factor on the limit while archives are loaded: LibTorch holds the GIL


@dataclass(frozen=True)
class Watchdog:
    """The limits in seconds: for one call of a model, and for an event loop that does not run."""

    call_seconds: float
    stall_seconds: float

    def complaint(self, state: HeartbeatState, now: float) -> str | None:
        """Return what is wrong with a process in this state; None if it is well."""
        limit = min(self.call_seconds, self.stall_seconds)
        if state.call and now - state.began > limit:
            return f"a call took longer than {limit:g} s on the event loop"
        limit = self.stall_seconds * (LOADING if state.loads else 1)
        if state.beat and now - state.beat > limit:
            return f"it answered nobody for {limit:g} s"
        return None

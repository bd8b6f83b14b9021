"""Which clients' rows run together after a batch has failed, so that the others are not slowed.

A batch that fails is run again in halves, which costs about 2 log2 n calls for one bad job among
n. A client that goes on sending bad rows would cost all clients that much for each batch. So for a
while after such a failure the jobs of clients whose last job succeeded run as one call, and all
other jobs as another. A client that has not been seen before belongs to the others, so opening a
new connection for each bad row gains nothing.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar

WATCHED_SECONDS = 60.0  # after the last failure; then all clients run together again
MOST_SOURCES = 4096  # clients that are remembered


class HasSource(Protocol):
    """What a client sent."""

    @property
    def source(self) -> Hashable:
        """The client; None when it is not known."""


S = TypeVar("S", bound=HasSource)


class FailureIsolation:
    """Whose jobs have succeeded since a batch failed; used by one thread at a time."""

    def __init__(self, seconds: float = WATCHED_SECONDS) -> None:
        """Forget everything this many seconds after the last failure."""
        self._seconds = seconds
        self.active = False
        """Whether a batch has failed lately."""
        self._until = 0.0  # on `time.monotonic`'s clock
        self._trusted: set[Hashable] = set()

    def groups(self, jobs: Sequence[S]) -> list[Sequence[S]]:
        """Return the jobs in groups, each of which is to run as one call."""
        if time.monotonic() > self._until:
            self.active = False
            self._trusted.clear()
            return [jobs]
        trusted = [job for job in jobs if job.source in self._trusted]
        others = [job for job in jobs if job.source not in self._trusted]
        return [group for group in (trusted, others) if group]

    def failed(self, job: HasSource | None = None) -> None:
        """Note that a job failed, or a batch of several; isolate from now on."""
        self.active = True
        self._until = time.monotonic() + self._seconds
        if job is not None:
            self._trusted.discard(job.source)

    def succeeded(self, jobs: Sequence[HasSource]) -> None:
        """Note that jobs succeeded after a failure."""
        if len(self._trusted) >= MOST_SOURCES:
            self._trusted.clear()
        self._trusted.update([job.source for job in jobs if job.source is not None])

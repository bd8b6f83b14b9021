"""The queue of requests before one engine: bounded in rows and bytes, taken from in batches."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

from torchship.serve.engine.batching import Kind
from torchship.serve.errors import QueueFullError
from torchship.serve.protocol.tensors import RawTensor
from torchship.serve.telemetry.records import Timing

PRIORITIES = (1, 2)
"""The first is served before the second."""


class Answer(Protocol):
    """What takes a job's outputs, on the event loop: a future, or an object with these methods."""

    def done(self) -> bool:
        """Return whether it has its outputs or an error, or was cancelled."""

    def cancelled(self) -> bool:
        """Return whether the outputs are not wanted any more."""

    def set_result(self, outputs: Mapping[str, RawTensor], /) -> None:
        """Take the outputs."""

    def set_exception(self, error: Exception, /) -> None:
        """Take the error that happened instead."""


@dataclass(eq=False, slots=True)
class Job:
    """One request's call of a method, waiting for its outputs."""

    method: str
    inputs: Mapping[str, RawTensor]
    rows: int
    kind: Kind | None
    """Jobs of one method and kind may run together; None runs alone."""
    answer: Answer
    symbols: Mapping[str, int] = field(default_factory=dict)
    """The sizes for which the signature's symbols stand in these inputs."""
    wanted: frozenset[str] | None = None
    """The outputs that are asked for; all when None."""
    priority: int = 2
    deadline: float | None = None
    """On `time.monotonic`'s clock; a job that is still waiting then is not run."""
    gone: Callable[[], bool] | None = None
    """Returns whether the client has left; then the job is not run."""
    entered: float = 0.0
    """When it was made, on the engine's wall clock."""
    timing: Timing | None = None
    """Takes in when the job ran, for a request that is traced."""
    nbytes: int = 0
    """Size of the inputs."""
    source: Hashable = None
    """The client that sent it; None when it is not known."""

    @property
    def weight(self) -> int:
        """How many rows it counts for in the queue; a job without rows counts as one."""
        return max(self.rows, 1)

    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline


class RequestQueue:
    """Jobs in the order they came; the event loop puts them in, the engine's thread takes them.

    There is one queue for each priority, with one limit for all of them.
    """

    def __init__(self, limit: int, byte_limit: int) -> None:
        """Hold at most so many rows and bytes; one request may have more if nothing else waits."""
        self.limit = limit
        self.byte_limit = byte_limit
        self.rows = 0
        """How many rows wait."""
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop that the last jobs came from, where they are told; None at first."""
        self._bytes = 0
        self._queues: dict[int, deque[Job]] = {priority: deque() for priority in PRIORITIES}
        self._lock = threading.Lock()
        self._wake_ups: SimpleQueue[None] = SimpleQueue()
        self._closed = False

    def put(self, jobs: list[Job]) -> None:
        """Let jobs wait. A busy engine finds them when it is done; an idle one needs `wake`.

        Raises:
            QueueFullError: they would be too many rows or bytes; none of them waits.
        """
        with self._lock:
            weight = sum([job.weight for job in jobs])
            if self.rows and self.rows + weight > self.limit:
                raise QueueFullError(
                    f"the queue is full: {self.rows} rows wait, {weight} more would be over the "
                    f"limit of {self.limit}; try again later"
                )
            nbytes = sum([job.nbytes for job in jobs])
            if self.rows and self._bytes + nbytes > self.byte_limit:
                raise QueueFullError(
                    f"the queue is full: {self._bytes} bytes wait, {nbytes} more would be over the "
                    f"limit of {self.byte_limit}; try again later"
                )
            for job in jobs:
                self._queues[job.priority].append(job)
            self.rows += weight
            self._bytes += nbytes

    def wake(self) -> None:
        """Have the thread that waits in `take` or `wait_for_wake_up` look at the queue."""
        self._wake_ups.put(None)

    def wait_for_wake_up(self) -> None:
        """Block until `wake` or `close` is called, even if jobs wait already."""
        self._wake_ups.get()

    def take(self, most: int, most_bytes: int) -> list[Job] | None:
        """Return the next batch, as `batch`; block until there is one; None when closed."""
        while not (batch := self.batch(most, most_bytes)):
            if self._closed:
                return None
            self._wake_ups.get()
        return batch

    def batch(self, most: int, most_bytes: int) -> list[Job]:
        """Return the next batch, of at most so many rows and bytes; an empty one if no jobs wait.

        It begins with the oldest job of the highest priority, which may be larger. Jobs of the same
        method and kind are added in their order if they fit; those between them are passed over and
        stay in their places.
        """
        with self._lock:
            first = next((queue.popleft() for queue in self._queues.values() if queue), None)
            if first is None:
                return []
            batch = [first]
            rows, nbytes = first.weight, first.nbytes
            if first.kind is not None:
                method, kind = first.method, first.kind
                for queue in self._queues.values():
                    passed_over: list[Job] = []
                    while queue and rows < most:
                        job = queue.popleft()
                        if (
                            job.kind == kind
                            and job.method == method
                            and rows + job.weight <= most
                            and nbytes + job.nbytes <= most_bytes
                        ):
                            batch.append(job)
                            rows += job.weight
                            nbytes += job.nbytes
                        else:
                            passed_over.append(job)
                    queue.extendleft(reversed(passed_over))
            self.rows -= rows
            self._bytes -= nbytes
            return batch

    def close(self) -> list[Job]:
        """End `take` for good; return the jobs that were waiting."""
        with self._lock:
            self._closed = True
            left = [job for queue in self._queues.values() for job in queue]
            for queue in self._queues.values():
                queue.clear()
            self.rows = self._bytes = 0
        self._wake_ups.put(None)
        return left

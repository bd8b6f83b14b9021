"""The queue of requests before one engine: bounded in rows and bytes, taken from in batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

from torchship.serve.engine.batching import Kind
from torchship.serve.engine.input_buffers import Given
from torchship.serve.errors import QueueFullError
from torchship.serve.protocol.tensors import RawTensor
from torchship.serve.telemetry.records import Timing

PRIORITIES = (1, 2)
"""The first is served before the second."""


class Answer(Protocol):
    """Who waits for a job's outputs, told on the event loop: a future, or what is like one."""

    def done(self) -> bool:
        """Return whether nothing is waited for any more."""

    def cancelled(self) -> bool:
        """Return whether whoever waited has given up."""

    def set_result(self, outputs: Mapping[str, RawTensor], /) -> None:
        """Take the outputs."""

    def set_exception(self, error: Exception, /) -> None:
        """Take what went wrong instead."""


@dataclass(eq=False, slots=True)
class Job:
    """One request's call of a method, waiting for its outputs."""

    method: str
    inputs: Given
    rows: int
    kind: Kind | None
    """Jobs of one method and kind may run together; None runs alone."""
    done: Answer
    symbols: Mapping[str, int] = field(default_factory=dict)
    """The sizes for which the signature's symbols stand in these inputs."""
    wanted: frozenset[str] | None = None
    """The outputs that are asked for; all when None."""
    priority: int = 2
    deadline: float | None = None
    """On `time.monotonic`'s clock; a job that is still waiting then is not run."""
    gone: Callable[[], bool] | None = None
    """Whether nobody waits for the outputs any more; such a job is not run."""
    entered: float = 0.0
    """On `time.perf_counter`'s clock."""
    timing: Timing | None = None
    """Is told when the job ran, if somebody wants to know."""
    nbytes: int = 0
    """Size of the inputs."""
    source: Hashable = None
    """The client that sent it; None when nobody knows."""

    @property
    def weight(self) -> int:
        """Rows in the line; a job without rows counts as one."""
        return max(self.rows, 1)

    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() > self.deadline


class RequestQueue:
    """Jobs in the order they came; the event loop puts them in, the engine's thread takes them."""

    def __init__(self, limit: int, byte_limit: int) -> None:
        """Hold at most so many rows and bytes; one request may have more if nothing else waits."""
        self.limit = limit
        self.byte_limit = byte_limit
        self.rows = 0
        self._bytes = 0
        self._lines: dict[int, deque[Job]] = {priority: deque() for priority in PRIORITIES}
        self._lock = threading.Lock()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._closed = False

    def put(self, jobs: list[Job]) -> None:
        """Let jobs wait. A busy engine finds them when it is done; `wake` an idle one.

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
                self._lines[job.priority].append(job)
            self.rows += weight
            self._bytes += nbytes

    def wake(self) -> None:
        """Have an idle engine look. What it finds may be nothing."""
        self._bell.put(None)

    def sleep(self) -> None:
        """Wait until somebody calls `wake` or `close`, whatever waits here."""
        self._bell.get()

    def take(self, most: int, most_bytes: int) -> list[Job] | None:
        """Return the next batch; wait for one; None when closed and empty."""
        while not (batch := self.batch(most, most_bytes)):
            if self._closed:
                return None
            self._bell.get()
        return batch

    def batch(self, most: int, most_bytes: int) -> list[Job]:
        """Return the next batch, of at most so many rows and bytes; no jobs when none wait.

        It begins with the oldest job of the highest priority, which may be larger. What fits to it
        is taken in order, also from behind jobs of other kinds, which come next.
        """
        with self._lock:
            first = next((line.popleft() for line in self._lines.values() if line), None)
            if first is None:
                return []
            batch = [first]
            rows, nbytes = first.weight, first.nbytes
            if first.kind is not None:
                method, kind = first.method, first.kind
                for line in self._lines.values():
                    passed_over: list[Job] = []
                    while line and rows < most:
                        job = line.popleft()
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
                    line.extendleft(reversed(passed_over))
            self.rows -= rows
            self._bytes -= nbytes
            return batch

    def close(self) -> list[Job]:
        """Take no more; return the jobs that were waiting."""
        with self._lock:
            self._closed = True
            left = [job for line in self._lines.values() for job in line]
            for line in self._lines.values():
                line.clear()
            self.rows = self._bytes = 0
        self._bell.put(None)
        return left

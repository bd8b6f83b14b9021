"""When the next batch begins: in the event loop's next turn, or after rows waited for others."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from torchship.serve.engine.executors import Executor
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.queue import Job, RequestQueue

COMPANIONS: ContextVar[int] = ContextVar("companions", default=1)
"""How many requests for the model are under way, the current one included, where the transport
brings them one at a time: a batch may wait for so many."""

COMPANION_SECONDS = 0.001  # the longest that it does; a few calls of a model on the event loop


class Dispatcher:
    """Puts jobs into a queue and has an executor begin, once for all jobs of one turn.

    Used from the event loop.
    """

    def __init__(self, queue: RequestQueue, limits: Limits, executor: Executor) -> None:
        """Have this executor run the batches. Another may be set at any time."""
        self.executor = executor
        self.scheduled = False
        """Whether the executor will be asked to begin."""
        self._queue = queue
        self._limits = limits
        self._delay: asyncio.TimerHandle | None = None

    @property
    def waiting_rows(self) -> int:
        """How many rows wait now."""
        return self._queue.rows

    @property
    def idle(self) -> bool:
        """Whether a job may run at once: none waits, and none is to wait for others."""
        return not (self.scheduled or self._queue.rows or self._limits.delay_seconds)

    def put(self, jobs: list[Job], companions: int = 1) -> None:
        """Let jobs wait for the next batch.

        A model on the event loop would begin before a transport that brings one request at a time
        could bring the next: its batch waits a little, until as many as `companions` are there.

        Raises:
            QueueFullError: there are too many; none of them waits.
        """
        self._queue.loop = loop = asyncio.get_running_loop()
        self._queue.put(jobs)
        delay, most = self._limits.delay_seconds, self._limits.max_batch
        if not delay and self.executor.runs_on_loop:
            delay, most = COMPANION_SECONDS, min(companions, most)
        full = self._queue.rows >= most
        if self._delay is not None and full:
            self._delay.cancel()
            self._delay = None
            loop.call_soon(self._begin)
        elif not self.scheduled:
            self.scheduled = True
            if delay and not full:
                self._delay = loop.call_later(delay, self._begin)
            else:
                loop.call_soon(self._begin)

    def _begin(self) -> None:
        self.scheduled = False
        self._delay = None
        again = True  # also if what is raised ends this turn: others wait
        try:
            again = self.executor.begin_batch()
        finally:
            if again and not self.scheduled:
                self.scheduled = True
                asyncio.get_running_loop().call_soon(self._begin)

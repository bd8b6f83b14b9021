"""When the next batch begins: in the event loop's next turn, or after rows waited for others."""

from __future__ import annotations

import asyncio

from torchship.serve.engine.executors import Executor
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.queue import Job, RequestQueue


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

    def put(self, jobs: list[Job]) -> None:
        """Let jobs wait for the next batch.

        Raises:
            QueueFullError: there are too many; none of them waits.
        """
        self._queue.loop = loop = asyncio.get_running_loop()
        self._queue.put(jobs)
        full = self._queue.rows >= self._limits.max_batch
        if self._delay is not None and full:
            self._delay.cancel()
            self._delay = None
            loop.call_soon(self._begin)
        elif not self.scheduled:
            self.scheduled = True
            if self._limits.delay_seconds and not full:
                self._delay = loop.call_later(self._limits.delay_seconds, self._begin)
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

"""Where batches run: in a thread of the engine's own, or on the event loop.

What was checked shall be what answers. So the thread that has run the golden cases is the one that
runs the requests, and before a model runs on the event loop its golden cases have run there too.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from torchship.serve.engine.call_watchdog import CallWatchdog
from torchship.serve.engine.delivery import BatchTiming, deliver, tell
from torchship.serve.engine.execution import BatchRunner
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.loop_calls import LoopCallMonitor
from torchship.serve.engine.queue import Job, RequestQueue
from torchship.serve.engine.runnable import Runnable
from torchship.serve.errors import DisagreementError, OutOfServiceError
from torchship.serve.system.heartbeat import Heartbeat
from torchship.serve.telemetry.records import Observer

log = logging.getLogger(__name__)

T = TypeVar("T")


class Executor(Protocol):
    """Runs the jobs that wait in a queue; called on the event loop."""

    @property
    def runs_on_loop(self) -> bool:
        """Whether batches run on the event loop."""

    def begin_batch(self) -> bool:
        """Begin the next batch if none runs; return whether to ask again in the next turn."""

    def run_now(self, jobs: Sequence[Job]) -> bool:
        """Run jobs past the queue, in which none may wait; return False if this cannot do so."""


@dataclass(frozen=True)
class Pipeline:
    """What a batch goes through, wherever it runs."""

    queue: RequestQueue
    runner: BatchRunner
    program: Callable[[], Runnable]
    """Gives the program, or raises what jobs are told while the engine is not ready."""
    limits: Limits
    observer: Observer | None


class ThreadExecutor:
    """A thread that warms a model up and then runs its batches until the queue is closed."""

    runs_on_loop = False

    def __init__(self, pipeline: Pipeline, name: str, watchdog: CallWatchdog) -> None:
        """Take the thread's name, and what notices calls that take too long."""
        self._pipeline = pipeline
        self._name = name
        self._watchdog = watchdog
        self._thread: threading.Thread | None = None
        self._warmed_up: asyncio.Future[Any] | None = None  # of what the warm-up returns
        self._ended: asyncio.Future[None] | None = None
        self.running: Sequence[Job] = ()
        """The batch that runs now."""

    def start(
        self, warm_up: Callable[[], T], on_failure: Callable[[str], None]
    ) -> asyncio.Future[T]:
        """Start the thread with the warm-up; return a future of its result, on this event loop.

        Args:
            warm_up: runs in the thread; if it raises, the future does, and the thread ends.
            on_failure: is told, on the event loop, that a call takes too long or what ended the
                thread after the warm-up. It is a method, whose object is not kept alive when the
                thread has ended.
        """
        loop = asyncio.get_running_loop()
        warmed_up: asyncio.Future[T] = loop.create_future()
        self._warmed_up, self._ended = warmed_up, loop.create_future()
        self._thread = threading.Thread(
            target=self._work, args=(loop, warm_up, on_failure), name=self._name, daemon=True
        )
        self._thread.start()
        self._watchdog.start(on_failure)
        return warmed_up

    def begin_batch(self) -> bool:
        """Wake the thread if it is idle; a busy one finds what waits when it is done."""
        self._pipeline.queue.wake()
        return False

    def run_now(self, jobs: Sequence[Job]) -> bool:
        """Return False: jobs get into the thread through the queue."""
        return False

    def abandon(self, error: Exception) -> bool:
        """Let nobody wait for the thread: it may never come back from what it does.

        A warm-up that has not ended fails with the error; return whether there was one.
        """
        self._watchdog.stop()
        _settle(self._ended)
        return _settle(self._warmed_up, None, error)

    async def ended(self) -> None:
        """Return when the thread has nothing left to do, or was abandoned."""
        if self._ended is not None:
            await asyncio.shield(self._ended)

    def join(self, seconds: float) -> bool:
        """Wait at most so long for the thread to end; return whether it has."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(
        self,
        loop: asyncio.AbstractEventLoop,
        warm_up: Callable[[], object],
        on_failure: Callable[[str], None],
    ) -> None:
        result: object = None
        error: Exception | None = None
        try:
            result = warm_up()
        except Exception as raised:
            error = raised
        except BaseException as raised:  # it would end the process where the load is waited for
            error = DisagreementError(f"it ended its thread: {type(raised).__name__}: {raised}")
        tell(loop, _settle, self._warmed_up, result, error)
        del result
        if error is None:
            try:
                self._run_batches(loop)
            except BaseException as raised:  # nobody would tell those that wait
                log.exception("the thread '%s' has ended", self._name)
                tell(loop, on_failure, f"its thread has ended: {type(raised).__name__}")
        tell(loop, self._watchdog.stop)
        tell(loop, _settle, self._ended)

    def _run_batches(self, loop: asyncio.AbstractEventLoop) -> None:
        pipeline = self._pipeline
        limits = pipeline.limits
        # While the model runs on the event loop, jobs in the queue are not for this thread: it
        # waits to be woken, whatever the queue holds.
        pipeline.queue.wait_for_wake_up()
        while jobs := pipeline.queue.take(limits.max_batch, limits.max_batch_bytes):
            self.running = jobs
            timings: list[BatchTiming] = []
            outcomes = pipeline.runner.run(
                jobs, pipeline.program, self._watchdog.heartbeat, timings
            )
            tell(pipeline.queue.loop or loop, deliver, outcomes, timings, pipeline.observer)
            self.running = ()
            del jobs, outcomes, timings  # they may be large, and the next may be long in coming


class LoopExecutor:
    """Runs batches on the event loop's own thread.

    For a model whose calls are short this costs less than handing over to another thread and
    sharing Python's lock with it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        heartbeat: Heartbeat,
        monitor: LoopCallMonitor,
        thread: ThreadExecutor,
        model: str,
    ) -> None:
        """Leave the batches to the thread once a monitor finds the model too slow.

        Args:
            pipeline: what batches go through.
            heartbeat: the process's own, which its watchdog reads: no one else can notice a call
                that keeps the event loop from turning.
            monitor: measures the calls.
            thread: runs the batches when the model is too slow, from then on.
            model: its name, for the log.
        """
        self.runs_on_loop = True
        """Whether batches run on the event loop; the thread runs them otherwise."""
        self._pipeline = pipeline
        self._heartbeat = heartbeat
        self._monitor = monitor
        self._thread = thread
        self._model = model
        self._rows_seen = 0  # that waited when the event loop was last asked for more

    def begin_batch(self) -> bool:
        """Run the next batch, or give the event loop another turn to bring more rows for it."""
        if not self.runs_on_loop:
            return self._thread.begin_batch()
        queue, limits = self._pipeline.queue, self._pipeline.limits
        rows, seen, self._rows_seen = queue.rows, self._rows_seen, 0
        if max(seen, 1) < rows < limits.max_batch:
            # More may be about to come: the event loop accepts one connection a turn, and would
            # take the time of a whole batch for each.
            self._rows_seen = rows
            return True
        if jobs := queue.batch(limits.max_batch, limits.max_batch_bytes):
            self.run_now(jobs)
        return queue.rows > 0  # others have their turn before the next batch

    def run_now(self, jobs: Sequence[Job]) -> bool:
        """Run jobs of one method and kind as a batch, and tell them."""
        if not self.runs_on_loop:
            return False
        pipeline, monitor = self._pipeline, self._monitor
        timings: list[BatchTiming] = []
        monitor.begin()
        try:
            outcomes = pipeline.runner.run(jobs, pipeline.program, self._heartbeat, timings)
        except BaseException as raised:  # it ends the event loop, and no one else knows these jobs
            what = f"its call was ended by {type(raised).__name__}"
            deliver([(job, OutOfServiceError(what)) for job in jobs])
            raise
        if timings and monitor.is_too_slow(timings[0].began):
            log.warning(
                "model '%s' took longer than %g s on the event loop: it goes on in a thread",
                self._model,
                monitor.limit_seconds,
            )
            self.runs_on_loop = False
        deliver(outcomes, timings, pipeline.observer)
        return True


def _settle(
    waited: asyncio.Future[Any] | None, result: object = None, error: Exception | None = None
) -> bool:
    """Let whoever waits go on; return False if nobody waits any more."""
    if waited is None or waited.done():
        return False
    waited.set_result(result) if error is None else waited.set_exception(error)
    return True

"""Batches run as calls of the model; a batch that fails is run again in parts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from torchship.script.runtime.batch import BATCH
from torchship.script.runtime.out_of_memory import explained
from torchship.serve.engine.batching import Batching
from torchship.serve.engine.delivery import BatchTiming, Outcome, Outputs
from torchship.serve.engine.failure_isolation import FailureIsolation
from torchship.serve.engine.queue import Job
from torchship.serve.engine.runnable import Runnable
from torchship.serve.errors import ClientGoneError, DeadlineError
from torchship.serve.system.heartbeat import Heartbeat
from torchship.serve.system.thread_clock import ThreadClock

log = logging.getLogger(__name__)


class BatchRunner:
    """Runs the batches of one engine, in one thread at a time."""

    def __init__(
        self, batchings: Mapping[str, Batching], engine_number: int, clock: ThreadClock
    ) -> None:
        """Take what is known of the program's methods, and the engine's number for heartbeats."""
        self._batchings = batchings
        self._engine_number = engine_number
        self._now = clock.wall
        self._isolation = FailureIsolation()

    def run(
        self,
        jobs: Sequence[Job],
        program: Callable[[], Runnable],
        heartbeat: Heartbeat,
        timings: list[BatchTiming],
    ) -> list[Outcome]:
        """Run a batch; if it fails, its halves, so that one bad request fails alone.

        An error is the outcome of the jobs that it concerns. Only what ends a thread, such as
        SystemExit, is raised. Rows that run again start from what the client sent.

        Args:
            jobs: of one method and kind.
            program: gives the program, or raises what the jobs are to be told instead.
            heartbeat: shows each call while it runs.
            timings: takes in each call of the program.
        """
        isolation = self._isolation
        outcomes: list[Outcome] = []
        # The parts that are still to run, the next one last.
        pending = isolation.groups(jobs)[::-1] if isolation.active else [jobs]
        halvings = -1
        while pending:
            live = _still_wanted(pending.pop(), outcomes)
            if not live:
                continue
            try:
                outcomes += zip(live, self._call(live, program, heartbeat, timings), strict=True)
            except Exception as error:
                if len(live) == 1:
                    outcomes.append((live[0], explained(error)))
                    if isolation.active:
                        isolation.failed(live[0])
                    continue
                isolation.failed()
                if halvings < 0:
                    # As many as it takes to find two bad jobs. If there are more, halves do not
                    # help: the rest runs one by one, which limits what bad jobs alone can cost.
                    halvings = 2 * (len(live) - 1).bit_length()
                if halvings:
                    halvings -= 1
                    middle = len(live) // 2
                    pending += [live[middle:], live[:middle]]
                else:
                    pending += [[job] for job in reversed(live)]
            else:
                if isolation.active:
                    isolation.succeeded(live)
        return outcomes

    def _call(
        self,
        live: Sequence[Job],
        program: Callable[[], Runnable],
        heartbeat: Heartbeat,
        timings: list[BatchTiming],
    ) -> Sequence[Outputs]:
        """Run jobs as one call, and note its times unless its jobs are to run again."""
        first = live[0]
        batching = self._batchings[first.method]
        now = self._now
        began = joined = now()
        try:
            symbols = first.symbols
            if len(live) > 1:
                symbols = {**symbols, BATCH: sum([job.rows for job in live])}
            inputs = batching.prepare([job.inputs for job in live], first.kind, symbols)
            joined = now()
            ready = program()
            heartbeat.enter(self._engine_number)
            try:
                outputs = ready.run(first.method, inputs, symbols)
            finally:
                heartbeat.leave()
            finished = now()
            wanted = first.wanted if len(live) == 1 else _union([job.wanted for job in live])
            parts = batching.split(outputs, [job.rows for job in live], symbols, wanted)
        except Exception:
            if len(live) == 1:
                finished = now()
                _note(timings, BatchTiming(live, began, joined, finished, finished, 1))
            raise
        _note(timings, BatchTiming(live, began, joined, finished, now(), 0))
        return parts


def _still_wanted(jobs: Sequence[Job], outcomes: list[Outcome]) -> list[Job]:
    """Return the jobs that are to run; `outcomes` takes in the others that are to be told."""
    live: list[Job] = []
    for job in jobs:
        try:
            if job.deadline is not None and job.expired():
                late = DeadlineError("the request waited longer than its timeout")
                outcomes.append((job, late))
            elif job.gone is not None and job.gone():
                gone = ClientGoneError("the client left before its turn came")
                outcomes.append((job, gone))
            elif not job.answer.cancelled():
                live.append(job)
        except (Exception, asyncio.CancelledError) as error:
            log.exception("asking whether a request is still wanted")
            failure = error if isinstance(error, Exception) else RuntimeError("it was cancelled")
            outcomes.append((job, failure))
    return live


def _union(wanted: Sequence[frozenset[str] | None]) -> frozenset[str] | None:
    """Return the outputs that at least one job asks for; None for all."""
    known = [names for names in wanted if names is not None]
    return frozenset().union(*known) if len(known) == len(wanted) else None


def _note(timings: list[BatchTiming], timing: BatchTiming) -> None:
    for job in timing.jobs:
        if job.timing is not None:
            job.timing.ran(job.entered, timing.began, timing.finished)
    timings.append(timing)

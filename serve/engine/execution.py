"""Batches run as calls of the model, and each of their jobs told what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from torchship.script.runtime.batch import BATCH
from torchship.script.runtime.out_of_memory import explained
from torchship.script.runtime.program import Program
from torchship.serve.engine.batching import Batching
from torchship.serve.engine.failure_isolation import FailureIsolation
from torchship.serve.engine.queue import Job
from torchship.serve.errors import ClientGoneError, DeadlineError
from torchship.serve.protocol.tensors import RawTensor
from torchship.serve.system.heartbeat import Heartbeat
from torchship.serve.telemetry.records import BatchReport, Observer

log = logging.getLogger(__name__)

Outputs = Mapping[str, RawTensor]

Outcome = tuple[Job, Outputs | Exception]
"""A job, and its outputs by name or what went wrong."""

Ran = tuple[Sequence[Job], tuple[float, float, float, float], int]
"""The jobs of one call, when it began, had its inputs, had run and had its outputs, and how many
jobs failed in it; on `time.perf_counter`'s clock."""


class BatchExecutor:
    """Runs the batches of one engine, in one thread at a time."""

    def __init__(self, batchings: Mapping[str, Batching], number: int) -> None:
        """Take what is known of the program's methods, and the engine's number for pulses."""
        self._batchings = batchings
        self._number = number
        self._spoilers = FailureIsolation()

    def run(
        self, jobs: Sequence[Job], ready: Callable[[], Program], pulse: Heartbeat, ran: list[Ran]
    ) -> list[Outcome]:
        """Run a batch; if it fails, its halves, so that one bad request fails alone.

        Nothing is raised but what ends a thread: an error is the outcome of the jobs that it
        befell. Rows that run again start from what the client sent.

        Args:
            jobs: of one method and kind.
            ready: gives the program, or raises what the jobs are to be told instead.
            pulse: shows each call while it runs.
            ran: takes in each call of the program.
        """
        spoilers = self._spoilers
        outcomes: list[Outcome] = []
        # The parts that are still to run, the next one last.
        pending = spoilers.groups(jobs)[::-1] if spoilers.active else [jobs]
        halvings = -1
        while pending:
            live: list[Job] = []
            for job in pending.pop():
                try:
                    if job.deadline is not None and job.expired():
                        late = DeadlineError("the request waited longer than its timeout")
                        outcomes.append((job, late))
                    elif job.gone is not None and job.gone():
                        gone = ClientGoneError("the client left before its turn came")
                        outcomes.append((job, gone))
                    elif not job.done.cancelled():
                        live.append(job)
                except Exception as error:
                    log.exception("asking whether a request is still wanted")
                    outcomes.append((job, error))
            if not live:
                continue
            try:
                outcomes += zip(live, self._call(live, ready, pulse, ran), strict=True)
            except Exception as error:
                if len(live) == 1:
                    outcomes.append((live[0], explained(error)))
                    if spoilers.active:
                        spoilers.failed(live[0])
                    continue
                spoilers.failed()
                if halvings < 0:
                    # As many as it takes to find two bad jobs. With more of them halves are no
                    # help: the rest runs one by one, which bounds what bad jobs alone can cost.
                    halvings = 2 * (len(live) - 1).bit_length()
                if halvings:
                    halvings -= 1
                    middle = len(live) // 2
                    pending += [live[middle:], live[:middle]]
                else:
                    pending += [[job] for job in reversed(live)]
            else:
                if spoilers.active:
                    spoilers.succeeded(live)
        return outcomes

    def _call(
        self, live: Sequence[Job], ready: Callable[[], Program], pulse: Heartbeat, ran: list[Ran]
    ) -> Sequence[Outputs]:
        """Run jobs as one call, and note it unless its jobs are to run again."""
        first = live[0]
        batching = self._batchings[first.method]
        began = joined = done = time.perf_counter()
        try:
            symbols = first.symbols
            if len(live) > 1:
                symbols = {**symbols, BATCH: sum([job.rows for job in live])}
            inputs = batching.prepare([job.inputs for job in live], first.kind, symbols)
            joined = time.perf_counter()
            program = ready()
            pulse.enter(self._number)
            try:
                outputs = program.run(first.method, inputs, symbols)
            finally:
                pulse.leave()
            done = time.perf_counter()
            wanted = first.wanted if len(live) == 1 else _union([job.wanted for job in live])
            parts = batching.split(outputs, [job.rows for job in live], symbols, wanted)
        except Exception:
            if len(live) == 1:
                done = time.perf_counter()
                _note(live, (began, joined, done, done), 1, ran)
            raise
        _note(live, (began, joined, done, time.perf_counter()), 0, ran)
        return parts


def deliver(
    outcomes: Sequence[Outcome],
    ran: Sequence[Ran] = (),
    observer: Observer | None = None,
) -> None:
    """Tell each job what became of it, then the observer of the calls. On the event loop.

    One that raises is logged, and keeps nobody else from being told.
    """
    for job, outcome in outcomes:
        try:
            if not job.done.done():
                if isinstance(outcome, Exception):
                    job.done.set_exception(outcome)
                else:
                    job.done.set_result(outcome)
        except Exception as error:
            log.exception("telling a request of method '%s' what became of it", job.method)
            with contextlib.suppress(Exception):  # it has had its chance
                if not job.done.done():
                    job.done.set_exception(error)
    # Before their tasks go on: those come with the loop's next turn.
    if observer is not None:
        for live, marks, failed in ran:
            observer(_report(live, marks, failed))


def tell(loop: asyncio.AbstractEventLoop, what: Callable[..., None], *news: object) -> None:
    """Have `what` called on an event loop, from another thread."""
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody listens
        loop.call_soon_threadsafe(what, *news)


class GuardedObserver:
    """An observer that may fail without harm to those who are answered."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failing = False

    def __call__(self, report: BatchReport) -> None:
        """Tell the observer; log the first of several failures: a full disk fails every time."""
        try:
            self._observer(report)
            self._failing = False
        except Exception:
            if not self._failing:
                log.exception("counting a call of method '%s'", report.method)
            self._failing = True


def _union(wanted: Sequence[frozenset[str] | None]) -> frozenset[str] | None:
    known = [names for names in wanted if names is not None]
    return frozenset().union(*known) if len(known) == len(wanted) else None


def _note(
    live: Sequence[Job], marks: tuple[float, float, float, float], failed: int, ran: list[Ran]
) -> None:
    for job in live:
        if job.timing is not None:
            job.timing.ran(job.entered, marks[0], marks[2])
    ran.append((live, marks, failed))


def _report(
    live: Sequence[Job], marks: tuple[float, float, float, float], failed: int
) -> BatchReport:
    began, joined, done, split = marks
    return BatchReport(
        method=live[0].method,
        rows=1 if live[0].kind is None else sum(job.rows for job in live),
        requests=len(live),
        waits=[began - job.entered for job in live],
        seconds=done - joined,
        failed=failed,
        input_seconds=joined - began,
        output_seconds=split - done,
    )

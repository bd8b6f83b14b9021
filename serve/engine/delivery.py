"""The jobs of a batch told what became of them, on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torchship.serve.engine.queue import Job
from torchship.serve.protocol.tensors import RawTensor
from torchship.serve.telemetry.records import BatchReport, Observer

log = logging.getLogger(__name__)

Outputs = Mapping[str, RawTensor]

Outcome = tuple[Job, Outputs | Exception]
"""A job, and its outputs by name or what went wrong."""


@dataclass(slots=True)  # a frozen one takes several times as long to make
class BatchTiming:
    """One call of the model; times are in seconds on the engine's wall clock."""

    jobs: Sequence[Job]
    began: float
    """When the inputs of the jobs began to be put together."""
    joined: float
    """When the inputs were together and the model began."""
    finished: float
    """When the model had returned."""
    split: float
    """When each job had its outputs."""
    failed: int
    """How many of the jobs failed in it: all or none."""

    def report(self) -> BatchReport:
        """Return what the observer is told of it."""
        jobs = self.jobs
        return BatchReport(
            method=jobs[0].method,
            rows=1 if jobs[0].kind is None else sum([job.rows for job in jobs]),
            requests=len(jobs),
            waits=[self.began - job.entered for job in jobs],
            seconds=self.finished - self.joined,
            failed=self.failed,
            input_seconds=self.joined - self.began,
            output_seconds=self.split - self.finished,
        )


def deliver(
    outcomes: Iterable[Outcome],
    timings: Sequence[BatchTiming] = (),
    observer: Observer | None = None,
) -> None:
    """Tell each job what became of it, then the observer of the calls. On the event loop.

    An error that is raised by one of them is logged, and the others are told all the same. What
    ends the process, such as KeyboardInterrupt, is raised after the others were told.
    """
    untold = iter(outcomes)
    try:
        for job, outcome in untold:
            _tell_job(job, outcome)
        # Those who wait for a future go on in the loop's next turn, after the observer.
        if observer is not None:
            for timing in timings:
                observer(timing.report())
    except BaseException:
        deliver(untold)
        raise


def _tell_job(job: Job, outcome: Outputs | Exception) -> None:
    answer = job.answer
    try:
        if not answer.done():
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
    except (Exception, asyncio.CancelledError) as error:
        log.exception("telling a request of method '%s' what became of it", job.method)
        failure = error if isinstance(error, Exception) else RuntimeError("it was cancelled")
        # If this fails too, nothing is left to try.
        with contextlib.suppress(Exception, asyncio.CancelledError):
            if not answer.done():
                answer.set_exception(failure)


def tell(loop: asyncio.AbstractEventLoop, what: Callable[..., object], *arguments: object) -> None:
    """Have `what` called on an event loop, from another thread."""
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody listens
        loop.call_soon_threadsafe(what, *arguments)


class GuardedObserver:
    """An observer whose errors are logged, so that requests are answered all the same."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failing = False

    def __call__(self, report: BatchReport) -> None:
        """Tell the observer. Of several failures in a row only the first is logged.

        A full disk, for instance, fails at every call.
        """
        try:
            self._observer(report)
            self._failing = False
        except (Exception, asyncio.CancelledError):
            if not self._failing:
                log.exception("counting a call of method '%s'", report.method)
            self._failing = True

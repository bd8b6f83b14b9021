"""A batch of jobs run as one call of the model, and each job told what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from torchship.script.batch import BATCH
from torchship.script.program import Program
from torchship.serve.batching import Batching
from torchship.serve.errors import ClientGoneError, DeadlineError
from torchship.serve.reports import BatchReport, Observer
from torchship.serve.tensors import Packed
from torchship.serve.waiting import Job

Outcome = tuple[Job, Mapping[str, Packed] | Exception]
"""A job, and its outputs by name or what went wrong."""


def run_jobs(
    ready: Callable[[], Program],
    batchings: Mapping[str, Batching],
    jobs: Sequence[Job],
    reports: list[BatchReport],
) -> list[Outcome]:
    """Run a batch; if it fails, each of its jobs alone, so that one bad request fails alone.

    Nothing is raised: an error is the outcome of the jobs that it befell.

    Args:
        ready: gives the program, or raises what the jobs are to be told instead.
        batchings: of the program's methods, by name.
        jobs: of one method and kind.
        reports: takes in a report of each call of the program.
    """
    outcomes: list[Outcome] = []
    live = []
    for job in jobs:
        if job.deadline is not None and job.expired():
            outcomes.append((job, DeadlineError("the request waited longer than its timeout")))
        elif job.gone is not None and job.gone():
            outcomes.append((job, ClientGoneError("the client left before its turn came")))
        elif not job.done.cancelled():
            live.append(job)
    if not live:
        return outcomes
    batching = batchings[live[0].method]
    began = joined = ran = time.perf_counter()
    try:
        symbols = {**live[0].symbols, BATCH: sum([job.rows for job in live])}
        inputs = batching.prepare([job.inputs for job in live], live[0].kind, symbols)
        joined = time.perf_counter()
        outputs = ready().run(live[0].method, inputs, symbols)
        ran = time.perf_counter()
        wanted = _union([job.wanted for job in live])
        asked = {n: o for n, o in outputs.items() if wanted is None or n in wanted}
        parts = batching.split(asked, [job.rows for job in live])
    except Exception as error:
        if len(live) == 1:
            reports.append(_report(live, (began, joined, time.perf_counter()), failed=1))
            return [*outcomes, (live[0], error)]
        alone = (run_jobs(ready, batchings, [job], reports) for job in live)
        return [*outcomes, *chain.from_iterable(alone)]
    reports.append(_report(live, (began, joined, ran)))
    return [*outcomes, *zip(live, parts, strict=True)]


def deliver(
    outcomes: Sequence[Outcome],
    reports: Sequence[BatchReport] = (),
    observer: Observer | None = None,
) -> None:
    """Tell each job what became of it, then the observer of the calls. On the event loop."""
    for job, outcome in outcomes:
        if not job.done.done():
            if isinstance(outcome, Exception):
                job.done.set_exception(outcome)
            else:
                job.done.set_result(outcome)
    # Before their tasks go on: those come with the loop's next turn.
    if observer is not None:
        for report in reports:
            observer(report)


def _union(wanted: Sequence[frozenset[str] | None]) -> frozenset[str] | None:
    known = [names for names in wanted if names is not None]
    return frozenset().union(*known) if len(known) == len(wanted) else None


def _report(live: Sequence[Job], marks: tuple[float, float, float], failed: int = 0) -> BatchReport:
    began, joined, ran = marks
    for job in live:
        if job.timing is not None:
            job.timing.ran(job.entered, began, ran)
    return BatchReport(
        method=live[0].method,
        rows=1 if live[0].kind is None else sum(job.rows for job in live),
        requests=len(live),
        waits=[began - job.entered for job in live],
        seconds=ran - joined,
        failed=failed,
        input_seconds=joined - began,
        output_seconds=time.perf_counter() - ran,
    )

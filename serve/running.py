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

Ran = tuple[Sequence[Job], tuple[float, float, float, float], int]
"""The jobs of one call, when it began, had its inputs, had run and had its outputs, and how many
jobs failed in it; on `time.perf_counter`'s clock."""


def run_jobs(
    ready: Callable[[], Program],
    batchings: Mapping[str, Batching],
    jobs: Sequence[Job],
    ran: list[Ran],
) -> list[Outcome]:
    """Run a batch; if it fails, each of its jobs alone, so that one bad request fails alone.

    Nothing is raised: an error is the outcome of the jobs that it befell.

    Args:
        ready: gives the program, or raises what the jobs are to be told instead.
        batchings: of the program's methods, by name.
        jobs: of one method and kind.
        ran: takes in each call of the program.
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
    began = joined = done = time.perf_counter()
    try:
        symbols = live[0].symbols
        if len(live) > 1:
            symbols = {**symbols, BATCH: sum([job.rows for job in live])}
        inputs = batching.prepare([job.inputs for job in live], live[0].kind, symbols)
        joined = time.perf_counter()
        outputs = ready().run(live[0].method, inputs, symbols)
        done = time.perf_counter()
        wanted = live[0].wanted if len(live) == 1 else _union([job.wanted for job in live])
        asked = outputs if wanted is None else {n: o for n, o in outputs.items() if n in wanted}
        parts = batching.split(asked, [job.rows for job in live])
    except Exception as error:
        if len(live) == 1:
            done = time.perf_counter()
            _note(live, (began, joined, done, done), 1, ran)
            return [*outcomes, (live[0], error)]
        alone = (run_jobs(ready, batchings, [job], ran) for job in live)
        return [*outcomes, *chain.from_iterable(alone)]
    _note(live, (began, joined, done, time.perf_counter()), 0, ran)
    return [*outcomes, *zip(live, parts, strict=True)]


def deliver(
    outcomes: Sequence[Outcome],
    ran: Sequence[Ran] = (),
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
        for live, marks, failed in ran:
            observer(_report(live, marks, failed))


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

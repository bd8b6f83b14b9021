"""A model proved before it answers: golden cases, every batch size, and whether it is quick."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch

from torchship.script.archive import Archive
from torchship.script.batch import BATCH
from torchship.script.errors import InputError, ModelError
from torchship.script.golden import Call
from torchship.script.independence import DependenceError, Rows, independent_rows
from torchship.script.parity import check_case, worse
from torchship.script.program import Program
from torchship.script.tree import Flat
from torchship.serve.batching import Batching
from torchship.serve.errors import DisagreementError, NotReadyError, RequestError
from torchship.serve.limits import Limits
from torchship.serve.rehearsal import Rehearsal
from torchship.serve.watch import CallWatch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Warming:
    """The batches that can come, and who watches that no call takes too long."""

    batchings: Mapping[str, Batching]
    """Of the methods, by name; those whose rows are not independent are forbidden to join."""
    limits: Limits
    watch: CallWatch
    rehearsal: Rehearsal


def prove(
    archive: Archive, warming: Warming, device: str, stopping: threading.Event
) -> tuple[Program, bool]:
    """Load an archive, run its golden cases and warm it up; on the thread that will answer.

    Args:
        archive: what to load.
        warming: which batches can come, what is quick, and who watches.
        device: where the model runs, such as `cpu`.
        stopping: when set, the work ends before its next case or call.

    Returns:
        The program, and whether it is quick.

    Raises:
        ArchiveError: it cannot be loaded.
        DisagreementError: there is no golden case, or one that cannot be run or differs.
        NotReadyError: `stopping` was set.
    """
    if not archive.golden:
        raise DisagreementError("it has no golden cases: nothing shows that it is right")
    program = archive.program(device)
    for number in range(len(archive.golden)):
        if stopping.is_set():
            raise NotReadyError("the server is shutting down")
        warming.watch.doing = f"a call of golden case {number} ('{archive.golden[number].name}')"
        prove_case(warming.rehearsal.of(program, warming.watch.pulse), archive, number)
    quick = _warm_up(program, archive, warming, stopping)
    return program, quick and device == "cpu"


def prove_case(call: Call, archive: Archive, number: int) -> None:
    """Run one golden case with calls as a client's, in the thread that calls.

    Raises:
        DisagreementError: it cannot be run, or an output differs from its golden value: the message
            names case, step, output and the difference.
    """
    case = archive.golden[number]
    where = f"golden case {number} ('{case.name}')"
    if case.method not in archive.vouched.methods:
        raise DisagreementError(f"{where} is of a method '{case.method}' that is not there")
    try:
        differences = check_case(archive.vouched, number, case, call)
    except (InputError, ModelError, RequestError, DisagreementError) as error:
        raise DisagreementError(f"{where}: {error}") from None
    wrong = [difference for difference in differences if not difference.agreed]
    if wrong:
        # Later steps follow from the first that is wrong.
        first = min(difference.step for difference in wrong)
        worst = reduce(worse, (difference for difference in wrong if difference.step == first))
        raise DisagreementError(
            f"{where}, method '{case.method}', step {worst.step}, "
            f"output '{worst.output}': {worst.reason}"
        )


def _warm_up(
    program: Program, archive: Archive, warming: Warming, stopping: threading.Event
) -> bool:
    """Run every batch size that can come, twice, with rows of the golden cases and like them.

    Some kernels are compiled for a shape when they first meet it. A method whose rows prove not to
    be independent, whatever its archive says, has each request run alone.

    Returns:
        Whether each method's largest batch took at most `Limits.quick_seconds`.
    """
    call = warming.watch.marked(program.call)

    def wanted(method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        if stopping.is_set():
            raise NotReadyError("the server is shutting down")
        return call(method, inputs)

    rows = {
        name: _independent_rows(wanted, archive, warming, name)
        for name in archive.vouched.methods
        if warming.batchings[name].possible
    }
    quick = True
    for name in archive.vouched.methods:
        batching = warming.batchings[name]
        known = rows.get(name)
        seconds = math.inf
        warming.watch.doing = f"a call of method '{name}' to warm up"
        try:
            if known is not None:
                seconds = _warm_method(wanted, name, known)
        except DependenceError as error:
            _forbid(archive, name, batching, error)
        quick = quick and batching.only and seconds <= warming.limits.quick_seconds
    return quick


def _independent_rows(call: Call, archive: Archive, warming: Warming, name: str) -> Rows | None:
    """Return as many rows as one call may have; None where there are none, or not independent."""
    method, batching, limits = (
        archive.vouched.methods[name],
        warming.batchings[name],
        warming.limits,
    )
    warming.watch.doing = f"a call of method '{name}' with rows like those of the golden cases"
    calls = [
        case.steps[0].inputs
        for case in archive.golden
        if case.method == name and batching.kind(case.steps[0].inputs)
    ]
    batching.allow(calls)
    try:
        return independent_rows(
            call, name, method, BATCH, calls, lambda size: limits.rows_in_call(1, size)
        )
    except DependenceError as error:
        _forbid(archive, name, batching, error)
        return None


def _forbid(archive: Archive, name: str, batching: Batching, why: DependenceError) -> None:
    log.warning(
        "model '%s' method '%s': each request runs alone, since its rows are not independent: %s",
        *(archive.vouched.name, name, why),
    )
    batching.forbid()


def _warm_method(call: Call, name: str, rows: Rows) -> float:
    """Run a method at every batch size, and return the seconds that the last took.

    Raises:
        DependenceError: at some size rows give something else than alone.
    """
    seconds = math.inf
    for size in range(1, rows.count + 1):
        given = rows.first(size)
        seconds = math.inf
        for _ in range(2):
            began = time.thread_time()  # not what others do to a busy machine
            together = call(name, given)
            seconds = min(seconds, time.thread_time() - began)
        rows.check_together(size, together)
    return seconds

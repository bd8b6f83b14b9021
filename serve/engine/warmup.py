"""A model proved before it answers: golden cases, every batch size, and whether it is quick."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch

from torchship.script.errors import InputError, ModelError
from torchship.script.exporting.independence import DependenceError, Rows, independent_rows
from torchship.script.format.golden import Call
from torchship.script.format.tree import Flat
from torchship.script.runtime.agreement import check_case, worse
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.batch import BATCH, batch_axes, resize
from torchship.script.runtime.program import Program
from torchship.serve.engine.batching import Batching
from torchship.serve.engine.call_watchdog import CallWatchdog
from torchship.serve.engine.golden_requests import GoldenRequests
from torchship.serve.engine.limits import Limits
from torchship.serve.errors import DisagreementError, NotReadyError, RequestError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Warmup:
    """The batches that can come, and who watches that no call takes too long."""

    batchings: Mapping[str, Batching]
    """Of the methods, by name; those whose rows are not independent are forbidden to join."""
    limits: Limits
    watch: CallWatchdog
    rehearsal: GoldenRequests


def prove(
    archive: Archive, warming: Warmup, device: str, stopping: threading.Event
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
    if case.method not in archive.require_manifest().methods:
        raise DisagreementError(f"{where} is of a method '{case.method}' that is not there")
    try:
        differences = check_case(archive.require_manifest(), number, case, call)
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
    program: Program, archive: Archive, warming: Warmup, stopping: threading.Event
) -> bool:
    """Run every batch size that can come, twice, with rows of the golden cases and like them.

    Some kernels are compiled for a shape when they first meet it. A method whose rows prove not to
    be independent, whatever its archive says, has each request run alone.

    Returns:
        Whether each method's largest batch took at most `Limits.inline_threshold_seconds`.
    """
    call = warming.watch.marked(program.call)

    def wanted(method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        if stopping.is_set():
            raise NotReadyError("the server is shutting down")
        return call(method, inputs)

    given = {
        name: [case.steps[0].inputs for case in archive.golden if case.method == name]
        for name in archive.require_manifest().methods
    }
    rows: dict[str, Rows | None] = {}
    for name, batching in warming.batchings.items():
        given[name] = [inputs for inputs in given[name] if batching.kind(inputs)]
        batching.allow(given[name])
        warming.watch.doing = f"a call of method '{name}' with rows like those of the golden cases"
        rows[name] = _independent_rows(wanted, archive, warming, name, given[name])
    quick = True
    for name, batching in warming.batchings.items():
        warming.watch.doing = f"a call of method '{name}' to warm up"
        seconds = math.inf
        if given[name]:
            seconds = _warm_method(wanted, archive, warming, name, given[name][0], rows[name])
        quick = quick and batching.only and seconds <= warming.limits.inline_threshold_seconds
    return quick


def _independent_rows(
    call: Call, archive: Archive, warming: Warmup, name: str, given: Sequence[Flat]
) -> Rows | None:
    """Return as many rows as one call may have; None where there are none, or not independent."""
    method, rows_in_call = archive.require_manifest().methods[name], warming.limits.rows_in_call
    try:
        return independent_rows(
            call, name, method, BATCH, given, lambda size: rows_in_call(1, size)
        )
    except DependenceError as error:
        _forbid(archive, name, warming.batchings[name], error)
        return None


def _forbid(archive: Archive, name: str, batching: Batching, why: Exception) -> None:
    log.warning(
        "model '%s' method '%s': each request runs alone, since its rows are not independent: %s",
        *(archive.require_manifest().name, name, why),
    )
    batching.forbid()


def _warm_method(
    call: Call, archive: Archive, warming: Warmup, name: str, given: Flat, rows: Rows | None
) -> float:
    """Run a method at every batch size, and return the seconds that the last took.

    Of the two calls of a size one has the rows of a golden case, which no size may spoil.
    """
    axes = batch_axes(archive.require_manifest().methods[name])
    row_bytes = sum(tensor.nbytes for tensor in resize(given, axes, 1).values())
    seconds = math.inf
    for size in range(1, warming.limits.rows_in_call(1, row_bytes) + 1):
        golden = resize(given, axes, size)
        _, seconds = _timed(call, name, golden)
        known = None if rows is None or size > rows.count else rows
        try:
            together, again = _timed(call, name, golden if known is None else known.first(size))
            seconds = min(seconds, again)
            if known is not None:
                known.check_together(size, together)
        except (DependenceError, InputError, ModelError) as error:
            _forbid(archive, name, warming.batchings[name], error)
            rows = None
    return seconds


def _timed(call: Call, name: str, inputs: Flat) -> tuple[Flat, float]:
    began = time.thread_time()  # not what others do to a busy machine
    outputs = call(name, inputs)
    return outputs, time.thread_time() - began

"""What runs before a model answers: its golden cases, and every batch size that can come."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch

from torchship.script.errors import InputError, ModelError
from torchship.script.exporting.independence import DependenceError, Rows, independent_rows
from torchship.script.format.golden import Call
from torchship.script.format.tree import Flat
from torchship.script.runtime.agreement import Difference, check_case, worse
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.batch import BATCH, batch_axes, resize
from torchship.serve.engine.batching import Batching
from torchship.serve.engine.call_watchdog import CallWatchdog
from torchship.serve.engine.golden_requests import GoldenRequests
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.proof import Proof
from torchship.serve.engine.runnable import Runnable
from torchship.serve.errors import DisagreementError, RequestError
from torchship.serve.protocol.tensors import pack_all

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmupContext:
    """What a warm-up needs to know of its engine."""

    batchings: Mapping[str, Batching]
    """Of the methods, by name; those whose rows are not independent are forbidden to join."""
    limits: Limits
    watchdog: CallWatchdog
    """Notices calls that take too long; told what runs, for its message."""
    golden_requests: GoldenRequests
    check_wanted: Callable[[], None]
    """Raises NotReadyError if the warm-up is to end before its next case or call."""


def warm_up(
    archive: Archive,
    program: Runnable,
    context: WarmupContext,
) -> tuple[bool, Proof]:
    """Run an archive's golden cases and then every batch size; in the thread that will answer.

    Returns:
        Whether each method's largest batch took at most `Limits.inline_threshold_seconds`, and
        what the golden cases showed.

    Raises:
        DisagreementError: there is no golden case, or one that cannot be run or differs.
        NotReadyError: `check_wanted` raised it.
    """
    call = context.golden_requests.calls(program, context.watchdog.heartbeat)
    differences: list[Difference] = []
    for number, case in enumerate(archive.golden):
        context.check_wanted()
        context.watchdog.doing = f"a call of golden case {number} ('{case.name}')"
        differences += check_golden_case(call, archive, number)
    proof = Proof.now(differences)
    return _run_all_sizes(program, archive, context), proof


def check_golden_case(call: Call, archive: Archive, number: int) -> list[Difference]:
    """Run one golden case in the calling thread, with calls as a client makes them.

    Returns:
        How each output of each step differs from its golden value, within its tolerance.

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
    return differences


def _run_all_sizes(program: Runnable, archive: Archive, context: WarmupContext) -> bool:
    """Run every batch size that can come, twice, with rows of the golden cases and like them.

    Some kernels are compiled for a shape when they first meet it. If the rows of a method turn out
    not to be independent, whatever its archive says, each of its requests runs alone.

    Returns:
        Whether each method's largest batch took at most `Limits.inline_threshold_seconds`.
    """
    watched = context.watchdog.marked(program.call)

    def call(method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        context.check_wanted()
        return watched(method, inputs)

    given = {
        name: [case.steps[0].inputs for case in archive.golden if case.method == name]
        for name in archive.require_manifest().methods
    }
    rows: dict[str, Rows | None] = {}
    for name, batching in context.batchings.items():
        given[name] = [inputs for inputs in given[name] if batching.kind(pack_all(inputs))]
        batching.allow(given[name])
        context.watchdog.doing = (
            f"a call of method '{name}' with rows like those of the golden cases"
        )
        rows[name] = _independent_rows(call, archive, context, name, given[name])
    is_short = True
    for name, batching in context.batchings.items():
        context.watchdog.doing = f"a call of method '{name}' to warm up"
        seconds = math.inf
        if given[name]:
            seconds = _warm_method(call, archive, context, name, given[name][0], rows[name])
        threshold = context.limits.inline_threshold_seconds
        is_short = is_short and batching.only and seconds <= threshold
    return is_short


def _independent_rows(
    call: Call, archive: Archive, context: WarmupContext, name: str, given: Sequence[Flat]
) -> Rows | None:
    """Return as many rows as one call may have, with the outputs that each gives alone.

    None if the method has no batch, or its rows are not independent.
    """
    method, rows_in_call = archive.require_manifest().methods[name], context.limits.rows_in_call
    try:
        return independent_rows(
            call, name, method, BATCH, given, lambda size: rows_in_call(1, size)
        )
    except DependenceError as error:
        _forbid(archive, name, context.batchings[name], error)
        return None


def _forbid(archive: Archive, name: str, batching: Batching, why: Exception) -> None:
    log.warning(
        "model '%s' method '%s': each request runs alone, since its rows are not independent: %s",
        *(archive.require_manifest().name, name, why),
    )
    batching.forbid()


def _warm_method(
    call: Call, archive: Archive, context: WarmupContext, name: str, given: Flat, rows: Rows | None
) -> float:
    """Run a method at every batch size, and return the seconds that the last took.

    One of the two calls of a size has the rows of a golden case, whose outputs are known to be
    right alone; the other has rows whose outputs are compared with those that they gave alone.
    """
    axes = batch_axes(archive.require_manifest().methods[name])
    row_bytes = sum(tensor.nbytes for tensor in resize(given, axes, 1).values())
    seconds = math.inf
    for size in range(1, context.limits.rows_in_call(1, row_bytes) + 1):
        golden = resize(given, axes, size)
        _, seconds = _timed(call, name, golden)
        known = None if rows is None or size > rows.count else rows
        try:
            together, again = _timed(call, name, golden if known is None else known.first(size))
            seconds = min(seconds, again)
            if known is not None:
                known.check_together(size, together)
        except (DependenceError, InputError, ModelError) as error:
            _forbid(archive, name, context.batchings[name], error)
            rows = None
    return seconds


def _timed(call: Call, name: str, inputs: Flat) -> tuple[Flat, float]:
    began = time.thread_time()  # without the time that other processes took on a busy machine
    outputs = call(name, inputs)
    return outputs, time.thread_time() - began

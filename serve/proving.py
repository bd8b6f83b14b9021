"""A model proved before it answers: golden cases, every batch size, and whether it is quick."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from torchship.script.archive import Archive
from torchship.script.batch import batch_axes, resize
from torchship.script.errors import InputError, ModelError
from torchship.script.golden import Call
from torchship.script.parity import check_case, worse
from torchship.script.program import Program
from torchship.serve.batching import Batching
from torchship.serve.errors import DisagreementError, NotReadyError
from torchship.serve.limits import Limits
from torchship.serve.watch import CallWatch


@dataclass(frozen=True)
class Warming:
    """The batches that can come, and who watches that no call takes too long."""

    batchings: Mapping[str, Batching]
    """Of the methods, by name."""
    limits: Limits
    watch: CallWatch


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
        prove_case(warming.watch.marked(program.call), archive, number)
    quick = _warm_up(program, archive, warming, stopping)
    return program, quick and device == "cpu"


def prove_case(call: Call, archive: Archive, number: int) -> None:
    """Run one golden case with the calls of a program, in the thread that calls.

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
    except (InputError, ModelError) as error:
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
    """Run every batch size that can come, twice, with rows of the golden cases.

    Some kernels are compiled for a shape when they first meet it.

    Returns:
        Whether each method's largest batch took at most `Limits.quick_seconds`.
    """
    limits = warming.limits
    call = warming.watch.marked(program.call)
    quick = True
    for name, method in archive.vouched.methods.items():
        axes = batch_axes(method)
        rows = (
            case.steps[0].inputs
            for case in archive.golden
            if case.method == name and warming.batchings[name].kind(case.steps[0].inputs)
        )
        inputs = next(rows, None)
        seconds = math.inf
        warming.watch.doing = f"a call of method '{name}' to warm up"
        row_bytes = sum(tensor.nbytes for tensor in resize(inputs or {}, axes, 1).values())
        for size in range(1, limits.rows_in_call(1, row_bytes) + 1) if inputs else ():
            given = resize(inputs or {}, axes, size)
            seconds = math.inf
            for _ in range(2):
                if stopping.is_set():
                    raise NotReadyError("the server is shutting down")
                began = time.thread_time()  # not what others do to a busy machine
                call(name, given)
                seconds = min(seconds, time.thread_time() - began)
        quick = quick and warming.batchings[name].only and seconds <= limits.quick_seconds
    return quick

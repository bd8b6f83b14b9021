"""The rows that must be shown, in groups that can be run alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from side_by_side import talk
from side_by_side.elsewhere import (
    IN_NODE,
    SSE2,
    enter_library,
    enter_node,
    enter_runner,
    enter_start,
)
from side_by_side.feedforward import (
    ONNX,
    OTHERS,
    RUNNER,
    SMALL,
    TABLE_BATCHES,
    enter_moba,
    enter_small,
)
from side_by_side.lineup import NATIVE, Lineup
from side_by_side.sequences import RECURRENT, VENDOR, ZOO_STEPS, enter_recurrent, enter_talk
from side_by_side.subjects import models_of_ours
from side_by_side.targets import Relation, Row


@dataclass(frozen=True)
class Group:
    """Work that belongs together: the models that it needs, its contenders and its rows."""

    name: str
    compiled: Sequence[str]  # models whose compiled code is measured
    exported: Sequence[str]  # models of which only the archive is
    enter: Callable[[Lineup], None]
    rows: Sequence[Row]


def native(
    work: str,
    prefix: str,
    relation: Relation,
    bound: float,
    others: Sequence[str],
    against: str = "",
) -> Row:
    """Return a row about native code beside other runtimes that do the same work."""
    keys = tuple(f"{prefix}/{name}" for name in others)
    return Row(work, f"{prefix}/{NATIVE}", relation, bound, keys, against=against)


PEERS = "the fastest of the others"  # which the table names beside its time
MOBA = (
    native("moba, batch 1", "moba/1", "time", 0.20, ONNX),
    native("moba, batch 1", "moba/1", "time", 0.08, (RUNNER,)),
    native("moba, batch 32", "moba/32", "speed", 2.0, OTHERS, PEERS),
    native("moba, batch 256", "moba/256", "speed", 1.6, OTHERS, PEERS),
)
SMALL_MODELS = [native(f"{name}, batch 1", f"{name}/1", "time", 0.35, ONNX) for name in SMALL]
ZOO = [
    native(f"{name} 24 → 40, {ZOO_STEPS} steps, batch 1", f"{name}/1", "time", 0.15, ("script",))
    for name in RECURRENT
]
SIZES = f"T={talk.STEPS}, I={talk.INPUT}, H={talk.HIDDEN}"
TALK = [
    native(f"lstm {SIZES}, batch 32", "talk-lstm/32", "speed", 1.0, VENDOR),
    native(f"lstm {SIZES}, batch 1", "talk-lstm/1", "speed", 1.0, VENDOR),
    native(f"lstm {SIZES}, batch 1", "talk-lstm/1", "speed", 2.0, ("eager",)),
    *(
        Row(
            *(f"{cell} {SIZES}, batch {batch}", f"talk-{cell}/{batch}/{NATIVE}", "speed", 0.9),
            (f"talk-lstm/{batch}/{NATIVE}",),
            against="native lstm",
        )
        for cell in talk.CELLS[1:]
        for batch in (32, 1)
    ),
]
START = (
    Row("moba, process to first answer", "start/native", "figure", 10, unit="ms"),
    Row("moba, resident memory", "start/native memory", "figure", 12, unit="MB"),
)
LIBRARY = (Row("moba, library on disk", "library/moba", "figure", 1.2, unit="MB"),)
NODE = (Row("moba in node, batch 1", f"node/{IN_NODE}", "time", 3.0, (f"node/{SSE2}",)),)
IN_RUNNER = [
    Row(
        *(f"runner: {name}, batch {batch}", f"runner/{name}/{batch}/{RUNNER}", "speed", 1.0),
        (f"runner/{name}/{batch}/eager",),
    )
    for name in models_of_ours()
    for batch in TABLE_BATCHES
]
TALK_MODELS = tuple(f"talk-{cell}" for cell in talk.CELLS)
GROUPS = (
    Group("moba", ("moba",), (), enter_moba, MOBA),
    Group("small", SMALL, (), enter_small, SMALL_MODELS),
    Group("recurrent", RECURRENT, (), enter_recurrent, ZOO),
    Group("talk", TALK_MODELS, (), enter_talk, TALK),
    Group("start", ("moba",), (), enter_start, START),
    Group("library", ("moba",), (), enter_library, LIBRARY),
    Group("node", ("moba",), (), enter_node, NODE),
    Group("runner", (), models_of_ours(), enter_runner, IN_RUNNER),
)

"""Places the temporaries of a method in its workspace; those never needed together share."""

from __future__ import annotations

from dataclasses import dataclass

import sympy

from torchship.native.ir import sizes
from torchship.native.ir.dtypes import ITEM_SIZES
from torchship.native.ir.program import If, Loop, Method, Statement, Storage
from torchship.native.ir.sizes import Size
from torchship.native.passes.uses import Aliases

ALIGNMENT = 64


@dataclass(frozen=True)
class Plan:
    """Where each temporary begins, in bytes from the start of the workspace, and its size."""

    offsets: dict[Storage, Size]
    total: Size


def plan(method: Method) -> Plan:
    """Return the places of all temporaries that the statements use."""
    lives = _lives(method)
    slots: list[tuple[Size, list[tuple[int, int]], list[Storage]]] = []
    ordered = sorted(lives, key=lambda s: (-_weight(s), lives[s]))
    for storage in ordered:
        life, size = lives[storage], _bytes(storage)
        for number, (room, taken, held) in enumerate(slots):
            if all(life[1] < begin or end < life[0] for begin, end in taken) and _fits(size, room):
                taken.append(life)
                held.append(storage)
                slots[number] = (room, taken, held)
                break
        else:
            slots.append((size, [life], [storage]))
    offsets: dict[Storage, Size] = {}
    total: Size = 0
    for room, _, held in slots:
        for storage in held:
            offsets[storage] = total
        total = sizes.simple(total + room)
    return Plan(offsets, total)


def _bytes(storage: Storage) -> Size:
    """Return the size, rounded up to the alignment."""
    size = sizes.simple(storage.count * ITEM_SIZES[storage.dtype])
    if sizes.less(size, 0) is not False:
        size = sizes.larger(size, 0)  # the inputs may be too small for a convolution
    if isinstance(size, int):
        return -(-size // ALIGNMENT) * ALIGNMENT
    rounded = (
        sizes.FloorDiv(sympy.sympify(size + ALIGNMENT - 1), sympy.Integer(ALIGNMENT)) * ALIGNMENT
    )
    if (
        isinstance(sizes.simple(size / sympy.Integer(ALIGNMENT)), sympy.Expr)
        and sizes.modulo(size, ALIGNMENT) == 0
    ):
        return size
    return sizes.simple(rounded)


def _weight(storage: Storage) -> int:
    """Return a number by which storages are ordered: their size when every symbol is 8."""
    size = sizes.simple_expr(_bytes(storage))
    values = {symbol: 8 for symbol in size.free_symbols}
    return int(size.xreplace({s: sympy.Integer(v) for s, v in values.items()}))


def _fits(size: Size, room: Size) -> bool:
    return sizes.less(room, size) is False


def _lives(method: Method) -> dict[Storage, tuple[int, int]]:
    """Return the first and last moment at which each temporary is needed."""
    lives: dict[Storage, tuple[int, int]] = {}
    aliases = Aliases(method.statements)
    clock = 0

    def use(storage: Storage, moment: int) -> None:
        for target in aliases.of(storage):
            if target.kind == "temporary":
                begin, end = lives.get(target, (moment, moment))
                lives[target] = (min(begin, moment), max(end, moment))

    def visit(statements: list[Statement]) -> None:
        nonlocal clock
        for statement in statements:
            begin = clock
            clock += 1
            for view in (*statement.reads(), *statement.writes()):
                use(view.storage, begin)
            for block in statement.blocks():
                visit(block)
            if isinstance(statement, Loop):
                # What a loop uses and others do too lives through all of its rounds.
                inside = {v.storage for s in _all(statement) for v in (*s.reads(), *s.writes())}
                for storage in inside:
                    if _crosses(storage, statement, method, aliases):
                        use(storage, begin)
                        use(storage, clock)
                clock += 1

    visit(method.statements)
    return lives


def _all(statement: Statement) -> list[Statement]:
    found: list[Statement] = []
    for block in statement.blocks():
        for inner in block:
            found += [inner, *_all(inner)]
    return found


def _crosses(storage: Storage, loop: Statement, method: Method, aliases: Aliases) -> bool:
    """Whether a storage may be read in a round before that round has written it.

    Storages that are pointed to count as if they did, and those that only some rounds write.
    """
    if storage.kind == "pointer":
        return True
    inner = _all(loop)
    outside = [s for s in _every(method.statements) if s not in inner]
    if any(v.storage is storage for s in outside for v in (*s.reads(), *s.writes())):
        return True
    for branch in inner:
        if isinstance(branch, If) and _sometimes_written(storage, branch, inner):
            return True
    for statement in inner:
        if any(v.storage is storage for v in statement.reads()):
            return not _written_before(storage, statement)
        if any(v.storage is storage for v in statement.writes()):
            return False
    return True


def _sometimes_written(storage: Storage, branch: If, inner: list[Statement]) -> bool:
    """Whether a branch writes what statements outside it read."""
    mine = _all(branch)
    return any(v.storage is storage for s in mine for v in s.writes()) and any(
        v.storage is storage for s in inner if s not in mine for v in s.reads()
    )


def _written_before(storage: Storage, reader: Statement) -> bool:
    return any(v.storage is storage for v in reader.writes()) and not any(
        v.storage is storage for v in reader.reads()
    )


def _every(statements: list[Statement]) -> list[Statement]:
    found: list[Statement] = []
    for statement in statements:
        found += [statement, *_all(statement)]
    return found

"""Who reads and writes which storage: what every pass asks before it moves or drops a statement."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from torchship.native.ir import sizes
from torchship.native.ir.program import (
    Assign,
    Declare,
    Define,
    Elementwise,
    Iota,
    Scalar,
    Statement,
    Storage,
    View,
    walk,
)


class Aliases:
    """Which storages a pointer may point into."""

    def __init__(self, statements: Sequence[Statement]) -> None:
        self._targets: dict[Storage, set[Storage]] = {}
        for statement in walk(statements):
            if (
                isinstance(statement, Assign)
                and statement.storage
                and isinstance(statement.value, View)
            ):
                self._targets.setdefault(statement.storage, set()).add(statement.value.storage)

    def of(self, storage: Storage) -> set[Storage]:
        """Return the storage and all that it may point into."""
        found, open_ = {storage}, [storage]
        while open_:
            for target in self._targets.get(open_.pop(), ()):
                if target not in found:
                    found.add(target)
                    open_.append(target)
        return found


def reads(statement: Statement) -> Iterator[View]:
    """Yield what a statement and those inside it read."""
    for inner in walk([statement]):
        yield from inner.reads()


def writes(statement: Statement) -> Iterator[View]:
    """Yield what a statement and those inside it write."""
    for inner in walk([statement]):
        yield from inner.writes()


def conflict(first: Statement, second: Statement, aliases: Aliases) -> bool:
    """Whether two statements may not change places."""
    read_1, write_1 = list(reads(first)), list(writes(first))
    read_2, write_2 = list(reads(second)), list(writes(second))
    pairs = ((write_1, read_2), (read_1, write_2), (write_1, write_2))
    if not sets(first).isdisjoint(variables(second)):
        return True
    return any(overlap(a, b, aliases) for left, right in pairs for a in left for b in right)


def sets(statement: Statement) -> set[str]:
    """Return the variables of the C code that a statement, or one inside it, sets."""
    return {s.name for s in walk([statement]) if isinstance(s, Define | Declare | Assign)}


def variables(statement: Statement) -> set[str]:
    """Return the variables that the views and operands of a statement depend on."""
    found: set[str] = set()
    for inner in walk([statement]):
        for view in (*inner.reads(), *inner.writes()):
            found |= variables_of(view)
        for operand in inner.operands if isinstance(inner, Elementwise) else ():
            if isinstance(operand, Scalar):
                found |= set(re.findall(r"\w+", operand.text))
            elif isinstance(operand, Iota):
                found |= {s.name for s in sizes.symbols_of(operand.start)}
                found |= {s.name for s in sizes.symbols_of(operand.step)}
    return found


def variables_of(view: View) -> set[str]:
    """Return the variables that say where a view lies."""
    numbers = (view.offset, *view.shape, *view.strides)
    found = {symbol.name for size in numbers for symbol in sizes.symbols_of(size)}
    return found | ({view.storage.name} if view.storage.kind == "pointer" else set())


def overlap(a: View, b: View, aliases: Aliases) -> bool:
    """Whether two views may share an element."""
    if a.storage is b.storage:
        return not disjoint(a, b)
    return not aliases.of(a.storage).isdisjoint(aliases.of(b.storage))


def disjoint(a: View, b: View) -> bool:
    """Whether two views of one storage have no element in common, for sure.

    They have none if they have the same strides, and lie beside each other along one axis.
    """
    if len(a.shape) != len(b.shape):
        return False
    if any(sizes.simple(x - y) != 0 for x, y in zip(a.strides, b.strides, strict=True)):
        return False
    distance = sizes.simple(b.offset - a.offset)
    if not isinstance(distance, int):
        return False
    left, right = (a, b) if distance >= 0 else (b, a)
    distance = abs(distance)
    for stride, size in sorted(
        (
            (s, n)
            for s, n in zip(left.strides, left.shape, strict=True)
            if isinstance(s, int) and s > 0 and isinstance(n, int)
        ),
        reverse=True,
    ):
        if distance >= stride:
            return (
                distance // stride >= size
                and distance % stride == 0
                and _inside(left, right, stride)
            )
    return False


def _inside(left: View, right: View, stride: int) -> bool:
    """Whether the axes finer than `stride` stay within one step of it, for both views."""
    for view in (left, right):
        span = 1
        for s, n in zip(view.strides, view.shape, strict=True):
            if isinstance(s, int) and isinstance(n, int) and 0 < s < stride:
                span += s * (n - 1)
        if span > stride:
            return False
    return True


def blocks_of(statements: list[Statement]) -> Iterator[list[Statement]]:
    """Yield a list of statements and all lists inside it, the inner ones first."""
    for statement in statements:
        for block in statement.blocks():
            yield from blocks_of(block)
    yield statements

"""Tensors that are one in torch and lie in several places in C, because a copy was needed.

A write in place would have to reach all places. It is refused if another place is read after it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torchship.native.errors import UnsupportedError
from torchship.native.importing.builder import Builder
from torchship.native.ir.program import Loop, Statement, Storage, View, walk


@dataclass(frozen=True)
class _Write:
    statement: Statement
    storage: Storage


class Places:
    """The places of tensors, and the writes in place."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._pairs: list[tuple[Storage, Storage, int, bool]] = []
        self._writes: list[_Write] = []

    def same(self, a: object, b: object, carried: bool = False, at: int | None = None) -> None:
        """Note that `b` is a copy of `a` that torch does not make.

        `carried` says that `a` is the variable of a loop, which gets `b` at the end of a round;
        `at` is when the copy is made, now if it is None.
        """
        if isinstance(a, View) and isinstance(b, View) and a.storage is not b.storage:
            when = len(self._builder.order) if at is None else at
            self._pairs.append((a.storage, b.storage, when, carried))

    def written(self, view: View, statement: Statement) -> None:
        """Note a write in place."""
        self._writes.append(_Write(statement, view.storage))

    def check(self, statements: list[Statement]) -> None:
        """Refuse a write in place if what it should change elsewhere is read after it.

        Raises:
            UnsupportedError: there is such a write.
        """
        readers: dict[Storage, list[Statement]] = {}
        for statement in walk(statements):
            for view in statement.reads():
                readers.setdefault(view.storage, []).append(statement)
        for write in self._writes:
            loop = _outermost_loop(statements, write.statement)
            inside = set(walk(loop)) if loop else set()
            for storage, carried in self._others(write).items():
                found = readers.get(storage, [])
                outside = any(s not in inside for s in found)
                if carried and not outside:
                    continue
                for reader in found:
                    later = self._builder.order[reader] > self._builder.order[write.statement]
                    if later or (reader in inside and outside):
                        raise UnsupportedError(
                            f"{write.statement.where}: {write.statement.note} writes in place to "
                            "a tensor of which the C has a copy"
                        )

    def _others(self, write: _Write) -> dict[Storage, bool]:
        """Return the other places of a tensor, and whether only a loop's variables lead there."""
        when = self._builder.order[write.statement]
        found, open_ = {write.storage: False}, [write.storage]
        while open_:
            known = open_.pop()
            for a, b, at, carried in self._pairs:
                if known not in (a, b) or (carried and known is b):
                    continue
                if not (carried or at <= when or found[known]):
                    continue
                other = b if known is a else a
                if other not in found:
                    found[other] = carried
                    open_.append(other)
        del found[write.storage]
        return found


def _outermost_loop(statements: list[Statement], wanted: Statement) -> list[Statement] | None:
    for statement in statements:
        inner = [s for block in statement.blocks() for s in block]
        if wanted in set(walk(inner)):
            return [statement] if isinstance(statement, Loop) else _outermost_loop(inner, wanted)
    return None

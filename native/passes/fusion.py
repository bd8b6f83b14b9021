"""Joins elementwise operations over the same indices into one pass over the memory."""

from __future__ import annotations

from torchship.native.ir import sizes
from torchship.native.ir.program import Elementwise, Fused, Method, Statement, Storage, View, walk
from torchship.native.passes.uses import Aliases, blocks_of, conflict, overlap

REACH = 24
"""How many statements back a partner is looked for."""


def fuse(method: Method) -> None:
    """Replace elementwise statements by fused ones, and find out what has to be stored."""
    aliases = Aliases(method.statements)
    for block in blocks_of(method.statements):
        joined: list[Statement] = []
        for statement in block:
            if isinstance(statement, Elementwise):
                partner = _partner(joined, statement, aliases)
                if partner is not None:
                    partner.members.append(statement)
                    partner.stored.append(True)
                    continue
                joined.append(
                    Fused([statement], [True], where=statement.where, note=statement.note)
                )
            else:
                joined.append(statement)
        block[:] = joined
    _keep_in_registers(method)


def _partner(joined: list[Statement], statement: Elementwise, aliases: Aliases) -> Fused | None:
    for previous in reversed(joined[-REACH:]):
        if isinstance(previous, Fused) and _compatible(previous, statement, aliases):
            return previous
        if conflict(previous, statement, aliases):
            return None
    return None


def _compatible(group: Fused, statement: Elementwise, aliases: Aliases) -> bool:
    """Whether a statement can run in the pass of a group, after its members at each index."""
    shape = group.members[0].out.shape
    if len(shape) != len(statement.out.shape):
        return False
    if any(sizes.equal(a, b) is not True for a, b in zip(shape, statement.out.shape, strict=True)):
        return False
    for member in group.members:
        for view in statement.reads():
            if overlap(member.out, view, aliases) and not member.out.same_elements(view):
                return False
        for view in (*member.reads(), member.out):
            if overlap(view, statement.out, aliases) and not view.same_elements(statement.out):
                return False
    return True


def _keep_in_registers(method: Method) -> None:
    """Do not store results that only members of their own group read."""
    readers: dict[Storage, list[tuple[Statement, int, View]]] = {}
    for statement in walk(method.statements):
        if isinstance(statement, Fused):
            for number, member in enumerate(statement.members):
                for view in member.reads():
                    readers.setdefault(view.storage, []).append((statement, number, view))
        else:
            for view in statement.reads():
                readers.setdefault(view.storage, []).append((statement, -1, view))
    for statement in walk(method.statements):
        if not isinstance(statement, Fused):
            continue
        for number, member in enumerate(statement.members):
            if member.out.storage.kind != "temporary":
                continue
            statement.stored[number] = not all(
                group is statement and reader > number and view.same_elements(member.out)
                for group, reader, view in readers.get(member.out.storage, [])
            )

"""Whether a batch may be computed in pieces.

That rows are independent was tested with as many rows as an exporter tries. A module that asks how
many rows there are may do something else with more of them, which a piece would never show. So a
batch is cut only if the number of rows decides nothing but how large tensors are, in proportion.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import sympy

from torchship.native.ir import sizes
from torchship.native.ir.program import (
    Assign,
    Call,
    Declare,
    Define,
    Elementwise,
    If,
    Iota,
    Loop,
    Method,
    Raise,
    Scalar,
    Statement,
    View,
    walk,
)

ROWS = "rows"
"""The variable of the C that has the number of rows of a piece."""
NONE_AT_ALL = re.compile(r"\(?[\w* ]*\brows\b[\w* ]*\)? (>|==|!=|<=) 0")
"""The question whether a tensor is empty; no piece is, unless the batch is."""


def may_be_cut(method: Method) -> bool:
    """Whether the number of rows decides nothing but sizes, in a method as it was imported."""
    for statement in walk(method.statements):
        views = [*statement.reads(), *statement.writes()]
        if any(not _in_proportion(number) for view in views for number in _numbers(view)):
            return False
        if any(_mentions(ROWS, value) for value in _values(statement)):
            return False
        over_rows = isinstance(statement, Loop) and _mentions(ROWS, statement.count)
        if isinstance(statement, Loop) and over_rows and not _only_checks_rows(statement):
            return False
    return True


def _only_checks_rows(loop: Loop) -> bool:
    """Whether a loop over rows does nothing but look at each, and refuse it if it is wrong."""
    own = {s.name for s in walk(loop.body) if isinstance(s, Declare)}
    return all(
        (isinstance(statement, Declare | Define | If | Raise) or _sets(statement, own))
        and not any(_mentions(loop.index, value) for value in _values(statement))
        and not (isinstance(statement, Raise) and _mentions(loop.index, statement.parts))
        for statement in walk(loop.body)
    )


def _sets(statement: Statement, variables: set[str]) -> bool:
    return isinstance(statement, Assign) and statement.name in variables


def _numbers(view: View) -> tuple[sizes.Size, ...]:
    return (view.offset, *view.shape, *view.strides)


def _values(statement: Statement) -> Iterator[object]:
    """Yield what a statement computes with, or decides by, beside its tensors."""
    if isinstance(statement, If):
        yield statement.condition
    elif isinstance(statement, Define | Assign):
        yield statement.value
    elif isinstance(statement, Call):
        yield from (v for v in statement.attributes.values() if not _is_extent(v))
    elif isinstance(statement, Elementwise):
        for operand in statement.operands:
            if isinstance(operand, Iota):
                yield from (operand.start, operand.step)
            else:
                yield operand


def _is_extent(value: object) -> bool:
    return isinstance(value, sympy.Expr) and _in_proportion(value)


def _mentions(name: str, value: object) -> bool:
    if isinstance(value, Scalar):
        return name in re.findall(r"\w+", value.text) and not NONE_AT_ALL.fullmatch(value.text)
    if isinstance(value, sympy.Expr):
        return name in {symbol.name for symbol in sizes.symbols_of(value)}
    if isinstance(value, tuple | list):
        return any(_mentions(name, item) for item in value)
    return False


def _in_proportion(size: sizes.Size) -> bool:
    """Whether a size has no rows in it, or is a multiple of them."""
    if isinstance(size, int) or not _mentions(ROWS, size):
        return True
    (rows,) = (symbol for symbol in sizes.symbols_of(size) if symbol.name == ROWS)
    slope = sympy.diff(sizes.simple_expr(size), rows)
    return rows not in slope.free_symbols

"""C for the statements of a method."""

from __future__ import annotations

import re
from typing import Any

import sympy

from torchship.native.emitting import calls, elementwise
from torchship.native.emitting.places import address, c_type
from torchship.native.emitting.writer import (
    Writer,
    comment_text,
    double_literal,
    integer_literal,
    string_literal,
)
from torchship.native.ir import sizes
from torchship.native.ir.program import (
    Assign,
    Call,
    Declare,
    Define,
    Elementwise,
    Fused,
    If,
    Loop,
    Raise,
    Scalar,
    Statement,
    View,
)

TYPES = {"int": "int64_t", "float": "double", "bool": "int"}


def emit_all(writer: Writer, statements: list[Statement]) -> None:
    """Write statements, each new source line of the model as a comment before them."""
    last = ""
    for statement in statements:
        comment = _comment(statement)
        if comment and comment != last:
            writer.line(f"/* {comment_text(comment)} */")
        last = comment or last
        emit(writer, statement)


def _comment(statement: Statement) -> str:
    if isinstance(statement, Declare | Assign):
        return ""
    if isinstance(statement, Fused):
        notes = list(dict.fromkeys(_short(m.note) for m in statement.members if m.note))
        lines = list(dict.fromkeys(m.where for m in statement.members if m.where))
        shape = _shape(statement.members[-1].out)
        return f"{', '.join(lines)}  {', '.join(notes)} {shape}".strip()
    if isinstance(statement, Call):
        return f"{statement.where}  {_short(statement.note)} {_shape(statement.outputs[0])}".strip()
    return f"{statement.where}  {_short(statement.note)}".strip()


def _short(note: str) -> str:
    return note.removeprefix("aten::").removeprefix("prim::")


def _shape(view: View) -> str:
    return "[" + ", ".join(sizes.c_text(size) for size in view.shape) + "]"


def emit(writer: Writer, statement: Statement) -> None:
    """Write one statement."""
    if isinstance(statement, Fused):
        elementwise.emit(writer, statement)
    elif isinstance(statement, Elementwise):
        elementwise.emit(writer, Fused([statement], [True]))
    elif isinstance(statement, Call):
        calls.emit(writer, statement)
    elif isinstance(statement, Define):
        value = _value(statement.value, statement.kind)
        writer.line(f"const {TYPES[statement.kind]} {statement.name} = {value};")
    elif isinstance(statement, Declare):
        if statement.kind == "pointer":
            writer.line(f"const {c_type(statement.dtype)} *{statement.name} = NULL;")
        else:
            writer.line(f"{TYPES[statement.kind]} {statement.name} = 0;")
    elif isinstance(statement, Assign):
        if statement.kind == "pointer":
            assert isinstance(statement.value, View)
            writer.line(f"{statement.name} = {address(statement.value)};")
        else:
            writer.line(f"{statement.name} = {_value(statement.value, statement.kind)};")
    elif isinstance(statement, Raise):
        _raise(writer, statement)
    elif isinstance(statement, If):
        _if(writer, statement)
    elif isinstance(statement, Loop):
        _loop(writer, statement)
    else:
        raise AssertionError(type(statement).__name__)


def _value(value: object, kind: str) -> str:
    if isinstance(value, View):
        element = f"({address(value)})[0]"
        return (
            f"{element} != 0"
            if kind == "bool" and value.dtype != "bool"
            else f"({TYPES[kind]}){element}"
        )
    if isinstance(value, Scalar):
        return value.text
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        return double_literal(value)
    if isinstance(value, int):
        return integer_literal(value)
    return sizes.c_text(value)


def _raise(writer: Writer, statement: Raise) -> None:
    for part in map(_of_whole_batch, statement.parts):
        if isinstance(part, str):
            writer.line(f"ts_say(message, {string_literal(part)});")
        elif isinstance(part, Scalar):
            writer.line(f"ts_say_integer(message, (int64_t)({part.text}));")
        elif isinstance(part, tuple):
            for number, size in enumerate(part):
                writer.line(f"ts_say(message, {string_literal(', ' if number else '[')});")
                writer.line(f"ts_say_integer(message, {sizes.c_text(size)});")
            writer.line(f"ts_say(message, {string_literal(']' if part else '[]')});")
        else:
            writer.line(f"ts_say_integer(message, {sizes.c_text(part)});")
    writer.line("return TS_RAISED;")


def _of_whole_batch(part: Any) -> Any:
    """Return a part of a message with the batch's number of rows in place of the piece's."""
    if isinstance(part, Scalar):
        return Scalar(part.kind, re.sub(r"\brows\b", "batch", part.text))
    if isinstance(part, tuple):
        return tuple(map(_of_whole_batch, part))
    if isinstance(part, sympy.Expr):
        names = {symbol: sizes.symbol("batch") for symbol in part.free_symbols}
        return part.xreplace({s: batch for s, batch in names.items() if s.name == "rows"})
    return part


def _if(writer: Writer, statement: If) -> None:
    if statement.then:
        with writer.block(f"if ({statement.condition.text})"):
            emit_all(writer, statement.then)
        if statement.otherwise:
            with writer.block("else"):
                emit_all(writer, statement.otherwise)
    elif statement.otherwise:
        with writer.block(f"if (!({statement.condition.text}))"):
            emit_all(writer, statement.otherwise)


def _loop(writer: Writer, statement: Loop) -> None:
    condition = f"{statement.index} < {sizes.c_text(statement.count)}"
    if statement.condition:
        condition += f" && {statement.condition}"
    with writer.block(f"for (int64_t {statement.index} = 0; {condition}; {statement.index}++)"):
        emit_all(writer, statement.body)

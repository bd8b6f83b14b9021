"""Texts: the messages of exceptions."""

from __future__ import annotations

from typing import Any

from torchship.native.importing.importer import Importer
from torchship.native.importing.registry import Raised, operator
from torchship.native.importing.values import (
    ListValue,
    Text,
    is_size,
)
from torchship.native.ir.program import Raise, Scalar


@operator("prim::RaiseException")
def raise_exception(importer: Importer, node: Any, arguments: list[Any]) -> object:
    message = arguments[0]
    parts = message.parts if isinstance(message, Text) else (str(message),)
    importer.builder.add(Raise(parts))
    raise Raised


@operator("aten::format")
def format_text(importer: Importer, node: Any, arguments: list[Any]) -> object:
    pattern, *values = arguments
    parts: list[Any] = []
    pieces = pattern.split("{}")
    for piece, value in zip(pieces, [*values, ""], strict=False):
        parts += [piece, *text_of(importer, value)]
    return joined(parts)


@operator("aten::str")
def to_text(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return joined(text_of(importer, arguments[0]))


def text_of(importer: Importer, value: object) -> list[Any]:
    if isinstance(value, Text):
        return list(value.parts)
    if isinstance(value, str):
        return [value]
    if isinstance(value, bool) or value is None:
        return [str(value)]
    if is_size(value):
        return [value]
    if isinstance(value, ListValue) and all(map(is_size, value.items)):
        return [tuple(value.items)]
    if isinstance(value, Scalar):
        return [value]
    if isinstance(value, float):
        return [repr(value)]
    return [f"<{type(value).__name__.lower()}>"]


def joined(parts: list[Any]) -> object:
    joined: list[Any] = []
    for part in parts:
        part = str(part) if is_size(part) and isinstance(part, int) else part
        if isinstance(part, tuple) and all(isinstance(n, int) for n in part):
            part = str(list(part))
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    if all(isinstance(part, str) for part in joined):
        return "".join(joined)
    return Text(tuple(joined))

"""Lists, tuples and dicts."""

from __future__ import annotations

from typing import Any

from torchship.native.importing.growing_lists import append as append_to
from torchship.native.importing.importer import Importer
from torchship.native.importing.operators.scalars import c_of, scalar_comparison
from torchship.native.importing.registry import operator
from torchship.native.importing.values import (
    DictValue,
    IntegersOf,
    ListValue,
    StackedList,
    is_tensor,
    stack_of,
)
from torchship.native.ir import sizes
from torchship.native.ir.layout import select
from torchship.native.ir.program import Scalar
from torchship.native.ir.sizes import Size


@operator("prim::ListConstruct")
def list_construct(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return ListValue(list(arguments), importer.scope)


@operator("prim::TupleConstruct")
def tuple_construct(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return tuple(arguments)


@operator("prim::DictConstruct")
def dict_construct(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return DictValue(dict(zip(arguments[::2], arguments[1::2], strict=True)), importer.scope)


@operator("prim::ListUnpack", "prim::TupleUnpack")
def unpack(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (value,) = arguments
    items = value.items if isinstance(value, ListValue) else value
    count = len(list(node.outputs()))
    if isinstance(value, StackedList) or stack_of(value) is not None:
        raise importer.builder.unsupported("unpacking a list of unknown length")
    if len(items) != count:
        raise importer.builder.unsupported(f"unpacking {len(items)} items into {count} names")
    return tuple(items) if count != 1 else items[0]


@operator("prim::TupleIndex")
def tuple_index(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return arguments[0][arguments[1]]


@operator("aten::append")
def append(importer: Importer, node: Any, arguments: list[Any]) -> object:
    append_to(importer, *arguments)
    return arguments[0]


@operator("aten::len")
def length(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (value,) = arguments
    stack = stack_of(value)
    if stack is not None:
        return stack.count
    if isinstance(value, ListValue):
        return len(value.items)
    if isinstance(value, IntegersOf):
        return value.view.shape[0]
    if is_tensor(value):
        return value.shape[0]
    return len(value)


def get_item(importer: Importer, arguments: list[Any]) -> object:
    """Translate an index into a list, tuple, dict or text."""
    value, index = arguments
    if isinstance(value, IntegersOf):
        place = (
            sizes.simple(value.view.shape[0] + index)
            if isinstance(index, int) and index < 0
            else index
        )
        return importer.define("int", select(value.view, 0, place))
    stack = stack_of(value)
    if stack is not None:
        if isinstance(index, int) and index < 0:
            index = sizes.simple(stack.count + index)
        place = sizes.simple(stack.count - 1 - index) if stack.reversed else index
        return select(stack.stacked, 0, place)
    if isinstance(value, dict):
        if index not in value:
            raise importer.builder.unsupported(f"the key {index!r}, which the dict does not have")
        return value[index]
    items = value.items if isinstance(value, ListValue) else value
    if not isinstance(index, int):
        return _indexed_later(importer, items, index)
    if not -len(items) <= index < len(items):
        raise importer.builder.unsupported(f"index {index} into {len(items)} items")
    return items[index]


def _indexed_later(importer: Importer, items: list[Any], index: Size) -> object:
    """Return the item at an index that is known only when the code runs: integers alone."""
    if items and all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        text = f"{c_of(items[-1])}"
        for place, item in reversed(list(enumerate(items[:-1]))):
            text = f"({c_of(index)} == {place} ? {c_of(item)} : {text})"
        return importer.define("int", Scalar("int", text))
    raise importer.builder.unsupported(
        "an index into a list of tensors that is known only when the code runs"
    )


@operator("prim::tolist")
def tolist(importer: Importer, node: Any, arguments: list[Any]) -> object:
    tensor = importer.builder.materialise(arguments[0])
    if len(tensor.shape) != 1 or tensor.dtype not in ("int64", "int32", "uint8", "int16", "int8"):
        raise importer.builder.unsupported("tolist of other than one axis of integers")
    return IntegersOf(tensor)


@operator("aten::list")
def copy_list(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return ListValue(list(arguments[0].items), importer.scope)


@operator("aten::reverse")
def reverse(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (value,) = arguments
    stack = stack_of(value)
    if value.home != importer.scope:
        raise importer.builder.unsupported("a list that is reversed in a loop or branch")
    importer.changes += 1
    if stack is not None:
        stack.reversed = not stack.reversed
    else:
        value.items.reverse()
    return ()


@operator("aten::extend")
def extend(importer: Importer, node: Any, arguments: list[Any]) -> object:
    for item in arguments[1].items:
        append_to(importer, arguments[0], item)
    return ()


@operator("aten::keys", "aten::values", "aten::items")
def dict_parts(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (value,) = arguments
    parts = {"keys": list(value), "values": list(value.values()), "items": list(value.items())}
    return ListValue(parts[node.kind().partition("::")[2]], importer.scope)


@operator("aten::__contains__")
def contains(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, item = arguments
    if not isinstance(value, ListValue):
        return item in value
    found: object = False
    for other in value.items:
        same = scalar_comparison("eq", importer, item, other)
        if same is True:
            return True
        if same is not False:
            both = found if isinstance(found, Scalar) else None
            text = c_of(same) if both is None else f"{c_of(both)} || {c_of(same)}"
            found = importer.define("bool", Scalar("bool", text))
    return found


@operator("aten::_set_item")
def set_item(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, key, item = arguments
    if value.home != importer.scope:
        raise importer.builder.unsupported("an item that is set in a loop or branch")
    if isinstance(value, DictValue):
        value[key] = item
    elif isinstance(key, int) and stack_of(value) is None:
        value.items[key] = item
    else:
        raise importer.builder.unsupported("an item at an index that is known when the code runs")
    importer.changes += 1
    return ()


@operator("aten::__getitem__")
def getitem(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return get_item(importer, arguments)

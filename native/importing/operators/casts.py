"""Casts, and tensors that are made of numbers."""

from __future__ import annotations

from typing import Any

from torchship.native.importing.importer import Importer
from torchship.native.importing.operators.scalars import count_of_range, dtype_of_number
from torchship.native.importing.registry import operator
from torchship.native.importing.values import (
    Full,
    ListValue,
    OneHot,
    Tensor,
    is_size,
    is_tensor,
)
from torchship.native.ir.dtypes import (
    DTYPES,
    UNSUPPORTED_DTYPES,
)
from torchship.native.ir.layout import narrow
from torchship.native.ir.program import Elementwise, Iota, View
from torchship.native.ir.sizes import Size
from torchship.script.runtime import torchscript_graph


@operator("aten::to", "aten::type_as", "aten::_to_copy")
def to(importer: Importer, node: Any, arguments: list[Any]) -> object:
    made = _converted(importer, arguments)
    names = [argument.name for argument in torchscript_graph.declared_arguments(node)]
    copies = "copy" in names and arguments[names.index("copy")] is not False
    if importer.mutates and copies and made is arguments[0]:
        return importer.builder.copied(importer.builder.materialise(made))
    return made


def _converted(importer: Importer, arguments: list[Any]) -> Any:
    value, target = arguments[:2]
    if is_tensor(target):
        return cast(importer, value, target.dtype)
    codes = [a for a in arguments[1:3] if isinstance(a, int) and not isinstance(a, bool)]
    if isinstance(target, int) and not isinstance(target, bool):
        return cast(importer, value, _dtype(importer, target))
    if codes:
        return cast(importer, value, _dtype(importer, codes[0]))
    return value


def _dtype(importer: Importer, code: int) -> str:
    if code not in DTYPES:
        name = UNSUPPORTED_DTYPES.get(code, f"number {code}")
        raise importer.builder.unsupported(f"a tensor of dtype {name}")
    return DTYPES[code]


def cast(importer: Importer, value: Any, dtype: str) -> object:
    """Return the tensor in another dtype."""
    if value.dtype == dtype:
        return value
    if isinstance(value, OneHot):
        return OneHot(value.index, value.classes, value.axis, dtype)
    if isinstance(value, Full):
        if isinstance(value.value, bool | int | float):
            return Full(value.value, dtype, value.shape)
        value = importer.builder.materialise(value)
    made = importer.builder.elementwise("copy", [value], dtype, value.dtype)
    widths = {"uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8}
    if (
        isinstance(value, View)
        and not importer.mutates
        and isinstance(made, View)
        and widths.get(value.dtype, 9) < widths.get(dtype, 0)
        and made.storage.kind == "temporary"
    ):
        importer.builder.widened[made.storage] = value
    return made


@operator("aten::zeros", "aten::ones", "aten::full", "aten::empty")
@operator("aten::zeros_like", "aten::ones_like", "aten::full_like", "aten::empty_like")
@operator("aten::new_zeros", "aten::new_ones", "aten::new_full")
def new(importer: Importer, node: Any, arguments: list[Any]) -> object:
    name = node.kind().partition("::")[2]
    like = arguments[0] if is_tensor(arguments[0]) else None
    rest = list(arguments)
    if name.startswith("new_"):
        shape, rest = rest[1].items, rest[2:]
    elif like is not None:
        shape, rest = like.shape, rest[1:]
    else:
        shape, rest = rest[0].items, rest[1:]
    value: Any = 1 if "ones" in name else 0
    if "full" in name:
        value, rest = rest[0], rest[1:]
    code = rest[0] if rest else None
    if code is not None:
        dtype = _dtype(importer, code)
    elif like is not None:
        dtype = like.dtype
    elif "full" in name:
        dtype = dtype_of_number(value)
    else:
        dtype = "float32"
    return number_of(importer, value, dtype, tuple(shape))


@operator("aten::arange")
def arange(importer: Importer, node: Any, arguments: list[Any]) -> object:
    numbers = arguments[:-4]
    start, end, step = (
        (0, numbers[0], 1)
        if len(numbers) == 1
        else (*numbers[:2], numbers[2] if len(numbers) > 2 else 1)
    )
    if not all(map(is_size, (start, end, step))):
        raise importer.builder.unsupported("arange of floats")
    code = arguments[-4]
    dtype = "int64" if code is None else _dtype(importer, code)
    if not isinstance(step, int) or step == 0:
        raise importer.builder.unsupported(f"arange with the step {step}")
    out = importer.builder.temporary(dtype, [count_of_range(start, end, step)])
    importer.builder.add(Elementwise(out, "copy", (Iota(0, start, step),), compute="int64"))
    return out


@operator("aten::tensor")
def tensor(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, code = arguments[:2]
    if isinstance(value, ListValue):
        items = value.items
        if any(isinstance(item, ListValue) for item in items):
            raise importer.builder.unsupported("a tensor of nested lists")
        kinds = [dtype_of_number(item) for item in items]
        dtype = _dtype(importer, code) if code is not None else (kinds[0] if kinds else "float32")
        out = importer.builder.temporary(dtype, [len(items)])
        for i, item in enumerate(items):
            importer.builder.copy(Full(item, dtype, (1,)), narrow(out, 0, i, 1))
        return out
    dtype = dtype_of_number(value) if code is None else _dtype(importer, code)
    return number_of(importer, value, dtype, ())


def number_of(importer: Importer, value: Any, dtype: str, shape: tuple[Size, ...]) -> Tensor:
    """Return a tensor whose elements are a number converted to a dtype."""
    made = Full(value, dtype, shape)
    plain = dtype_of_number(value)
    if isinstance(value, bool | int | float) or plain == dtype:
        return made
    return importer.builder.materialise(made)


@operator("aten::one_hot")
def one_hot(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, classes = arguments
    if not isinstance(classes, int) or classes < 0:
        raise importer.builder.unsupported("one_hot without a number of classes")
    index = importer.builder.narrowest(importer.builder.materialise(value))
    importer.builder.hint = "classes"
    checked = importer.builder.temporary("int32", index.shape)
    importer.builder.call("classes", [checked], [index], classes=classes)
    made = OneHot(checked, classes, len(index.shape), "int64")
    return importer.builder.materialise(made) if importer.mutates else made

"""Questions about tensors, and numbers that are read from them."""

from __future__ import annotations

from typing import Any

from torchship.native.importing.importer import Importer
from torchship.native.importing.operators.scalars import c_of, dtype_of_number
from torchship.native.importing.registry import operator
from torchship.native.importing.values import (
    Device,
    Full,
    ListValue,
    is_size,
    is_tensor,
)
from torchship.native.ir import sizes
from torchship.native.ir.dtypes import (
    DTYPE_CODES,
)
from torchship.native.ir.program import Scalar, View


@operator("aten::dim")
def dim(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return len(arguments[0].shape)


@operator("aten::size")
def size(importer: Importer, node: Any, arguments: list[Any]) -> object:
    shape = list(arguments[0].shape)
    if len(arguments) == 1:
        return ListValue(shape, importer.scope)
    return shape[arguments[1]]


@operator("aten::numel")
def numel(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return sizes.product(arguments[0].shape)


@operator("prim::dtype")
def dtype(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return DTYPE_CODES[arguments[0].dtype]


@operator("prim::device")
def device(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return Device()


@operator("prim::layout")
def layout(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return 0


@operator("aten::is_floating_point")
def is_floating_point(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return arguments[0].dtype.startswith("float")


@operator("aten::Int", "aten::IntImplicit")
def to_int(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value = number_of(arguments[0])
    if is_tensor(value):
        return importer.define("int", single(importer, value))
    if is_size(value):
        return value
    if isinstance(value, bool | float):
        return int(value)
    return importer.define("int", Scalar("int", f"(int64_t){c_of(value)}"))


@operator("aten::Float", "aten::FloatImplicit")
def to_float(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value = number_of(arguments[0])
    if is_tensor(value):
        return importer.define("float", single(importer, value))
    if isinstance(value, int | float):
        return float(value)
    return importer.define("float", Scalar("float", f"(double){c_of(value)}"))


@operator("aten::Bool")
def to_bool(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value = number_of(arguments[0])
    if is_tensor(value):
        return importer.define("bool", single(importer, value))
    if isinstance(value, int | float):
        return bool(value)
    return importer.define("bool", Scalar("bool", f"{c_of(value)} != 0"))


@operator("aten::item", "aten::ScalarImplicit")
def item(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (value,) = arguments
    if value.dtype == "bool":
        return to_bool(importer, node, arguments)
    return (to_float if value.dtype.startswith("float") else to_int)(importer, node, arguments)


def number_of(value: Any) -> Any:
    """Return the number that a tensor without axes was made of, which may be a size; or the value.

    A trace makes tensors of all sizes, and numbers of these again where it needs them.
    """
    return value.value if isinstance(value, Full) and value.shape == () else value


def single(importer: Importer, value: Any) -> View:
    """Return the view of a tensor's only element, without axes."""
    view = importer.builder.materialise(value)
    if sizes.product(view.shape) != 1:
        raise importer.builder.unsupported(f"a number of a tensor of shape {list(view.shape)}")
    return View(view.storage, view.offset, (), ())


@operator("prim::NumToTensor", "aten::scalar_tensor")
def number_to_tensor(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value = arguments[0]
    return Full(value, dtype_of_number(value), ())

"""Constants, attributes, and nodes that do nothing in C."""

from __future__ import annotations

from typing import Any

from torchship.native.importing.importer import Importer
from torchship.native.importing.registry import operator
from torchship.native.importing.values import (
    UNINITIALISED,
    Optional,
)


@operator("prim::Constant")
def constant(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (output,) = node.outputs()
    value = output.toIValue()
    return importer.constant(value, importer.builder.hint or f"constant_{output.unique()}")


@operator("prim::Uninitialized")
def uninitialised(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return UNINITIALISED


@operator("prim::GetAttr")
def attribute(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return importer.attribute(arguments[0], node.s("name"))


@operator("prim::unchecked_cast")
def unchecked_cast(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (value,) = arguments
    return value.value if isinstance(value, Optional) else value


@operator("aten::_unwrap_optional")
def unwrap(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return unchecked_cast(importer, node, arguments)


@operator(
    "prim::is_cuda",
    "prim::is_nested",
    "prim::requires_grad",
    "prim::is_sparse",
)
def never(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return False


@operator("aten::is_grad_enabled", "aten::is_autocast_enabled", "aten::is_autocast_cpu_enabled")
def not_enabled(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return False


@operator("aten::warn", "prim::Print")
def nothing(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return ()

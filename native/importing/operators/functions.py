"""Functions of each element: activations, bounds, choices."""

from __future__ import annotations

from typing import Any

from torchship.native.importing.importer import Importer
from torchship.native.importing.operators.promotion import floating, promoted
from torchship.native.importing.operators.scalars import scalar_function
from torchship.native.importing.operators.views import reshaped
from torchship.native.importing.registry import operator
from torchship.native.importing.values import (
    Full,
    is_tensor,
)
from torchship.native.ir import sizes

UNARY_FLOAT = {
    "tanh", "sigmoid", "exp", "log", "sqrt", "rsqrt", "reciprocal", "erf", "expm1", "log1p", "sin",
    "cos", "silu", "softplus", "mish", "hardswish", "hardsigmoid", "selu", "elu", "gelu", "log2",
}  # fmt: skip


UNARY_ANY = {"relu", "abs", "neg", "floor", "ceil", "sign", "round", "trunc", "square", "relu6"}


@operator(*(f"aten::{name}" for name in UNARY_FLOAT | UNARY_ANY))
def unary(importer: Importer, node: Any, arguments: list[Any]) -> object:
    name = node.kind().partition("::")[2]
    value = arguments[0]
    if not is_tensor(value):
        return -value if name == "neg" else scalar_function(name, importer, value)
    dtype = floating(value.dtype) if name in UNARY_FLOAT else value.dtype
    make = importer.builder.elementwise
    if name == "round" and len(arguments) > 1 and arguments[1] != 0:
        raise importer.builder.unsupported("round to decimals")
    if name == "silu":
        return make("mul", [value, make("sigmoid", [value], dtype)], dtype)
    if name == "square":
        return make("mul", [value, value], dtype)
    if name == "relu6":
        return make("min", [make("relu", [value], dtype), 6], dtype)
    if name == "gelu":
        return _gelu(importer, value, arguments[1])
    if name == "hardsigmoid":
        return make("div", [_raised(importer, value, dtype), 6.0], dtype)
    if name == "hardswish":
        product = make("mul", [value, _raised(importer, value, dtype)], dtype)
        return make("div", [product, 6.0], dtype)
    if name == "softplus" and (arguments[1] != 1 or arguments[2] != 20):
        raise importer.builder.unsupported("softplus with another beta or threshold than 1 and 20")
    if name == "mish":
        return make("mul", [value, make("tanh", [make("softplus", [value], dtype)], dtype)], dtype)
    if name in ("elu", "selu"):
        return _elu(importer, name, value, arguments, dtype)
    if name == "log2":
        return make("mul", [make("log", [value], dtype), 1.4426950408889634], dtype)
    if name == "rsqrt":
        return make("div", [1.0, make("sqrt", [value], dtype)], dtype)
    if name == "reciprocal":
        return make("div", [1.0, value], dtype)
    return make(name, [value], dtype, value.dtype if name in UNARY_ANY else dtype)


def _gelu(importer: Importer, value: Any, approximate: str) -> object:
    make, dtype = importer.builder.elementwise, value.dtype
    half = make("mul", [value, 0.5], dtype)
    if approximate == "tanh":
        cube = make("mul", [make("mul", [value, value], dtype), value], dtype)
        inner = make(
            "mul", [make("fma", [cube, 0.044715, value], dtype), 0.7978845608028654], dtype
        )
        return make("mul", [half, make("add", [make("tanh", [inner], dtype), 1.0], dtype)], dtype)
    inner = make("erf", [make("mul", [value, 0.7071067811865476], dtype)], dtype)
    return make("mul", [half, make("add", [inner, 1.0], dtype)], dtype)


def _raised(importer: Importer, value: Any, dtype: str) -> Any:
    """Return min(max(x + 3, 0), 6)."""
    make = importer.builder.elementwise
    return make("min", [make("relu", [make("add", [value, 3.0], dtype)], dtype), 6.0], dtype)


def _elu(importer: Importer, name: str, value: Any, arguments: list[Any], dtype: str) -> object:
    make = importer.builder.elementwise
    alpha, scale = (1.6732632423543772, 1.0507009873554805) if name == "selu" else arguments[1:3]
    if name == "elu" and arguments[3] != 1:
        raise importer.builder.unsupported("elu with a scale of its input")
    below = make("mul", [make("expm1", [value], dtype), alpha * scale], dtype)
    above = value if scale == 1 else make("mul", [value, scale], dtype)
    return make("where", [make("gt", [value, 0], "bool", dtype), above, below], dtype)


@operator(
    "aten::leaky_relu",
    "aten::hardtanh",
    "aten::clamp",
    "aten::clamp_min",
    "aten::clamp_max",
    "aten::prelu",
)
def bounded(importer: Importer, node: Any, arguments: list[Any]) -> object:
    name = node.kind().partition("::")[2]
    value, make = arguments[0], importer.builder.elementwise
    dtype = value.dtype
    if name == "leaky_relu":
        below = make("mul", [value, arguments[1]], dtype)
        return make("where", [make("gt", [value, 0], "bool", dtype), value, below], dtype)
    if name == "prelu":
        weight = arguments[1]
        count = sizes.product(weight.shape)
        rest = len(value.shape) - 2
        one = count == 1 or rest < 0
        shape = [] if one else [count, *[1] * rest]
        scale = reshaped(importer, weight, shape)
        below = make("mul", [value, scale], dtype)
        return make("where", [make("gt", [value, 0], "bool", dtype), value, below], dtype)
    low = arguments[1] if name != "clamp_max" else None
    high = arguments[2] if name in ("clamp", "hardtanh") and len(arguments) > 2 else None
    high = arguments[1] if name == "clamp_max" else high
    if low is not None:
        value = make("max", [value, low], promoted(value, low))
    return value if high is None else make("min", [value, high], promoted(value, high))


@operator("aten::maximum", "aten::minimum")
def extreme(importer: Importer, node: Any, arguments: list[Any]) -> object:
    a, b = arguments
    return importer.builder.elementwise(
        "max" if "max" in node.kind() else "min", [a, b], promoted(a, b)
    )


@operator("aten::where")
def where(importer: Importer, node: Any, arguments: list[Any]) -> object:
    if len(arguments) == 1:
        raise importer.builder.unsupported(
            "where with a condition alone: its shape depends on values"
        )
    condition, a, b = arguments
    dtype = promoted(a, b)
    return importer.builder.elementwise("where", [condition, a, b], dtype)


@operator("aten::masked_fill")
def masked_fill(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, mask, fill = arguments
    if is_tensor(fill) and not isinstance(fill, Full):
        fill = importer.builder.materialise(fill)
    return importer.builder.elementwise("where", [mask, fill, value], value.dtype)


@operator("aten::isnan", "aten::isinf", "aten::isfinite")
def classify(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (value,) = arguments
    make = importer.builder.elementwise
    if not value.dtype.startswith("float"):
        return Full(node.kind() == "aten::isfinite", "bool", tuple(value.shape))
    if node.kind() == "aten::isnan":
        return make("ne", [value, value], "bool", value.dtype)
    size = make("abs", [value], value.dtype)
    name = "eq" if node.kind() == "aten::isinf" else "lt"
    return make(name, [size, float("inf")], "bool", value.dtype)

"""Arithmetic, bits and comparisons of each element."""

from __future__ import annotations

from typing import Any

from torchship.native.importing.importer import Importer
from torchship.native.importing.operators.promotion import floating, promoted
from torchship.native.importing.operators.scalars import (
    COMPARISONS,
    c_of,
    scalar_arithmetic,
    scalar_comparison,
    scalar_remainder,
)
from torchship.native.importing.registry import operator
from torchship.native.importing.values import (
    Full,
    is_size,
    is_tensor,
)
from torchship.native.ir.dtypes import (
    ITEM_SIZES,
)
from torchship.native.ir.program import Scalar


def _binary(name: str, importer: Importer, a: Any, b: Any, alpha: Any = 1) -> object:
    dtype = promoted(a, b)
    if name == "div":
        dtype = floating(dtype)
    if alpha != 1:
        b = (
            importer.builder.elementwise("mul", [b, alpha], promoted(b, alpha))
            if is_tensor(b)
            else b * alpha
        )
    if isinstance(a, Full) and isinstance(b, Full):
        a = importer.builder.materialise(a)
    if dtype == "bool" and name in ("add", "mul"):
        name = {"add": "or", "mul": "and"}[name]
    return importer.builder.elementwise(name, [a, b], dtype)


@operator("aten::add", "aten::sub", "aten::mul", "aten::div", "aten::rsub")
def arithmetic(importer: Importer, node: Any, arguments: list[Any]) -> object:
    name = node.kind().partition("::")[2]
    a, b, *rest = arguments
    if not is_tensor(a) and not is_tensor(b):
        return scalar_arithmetic(f"aten::{name}", importer, arguments)
    if name == "rsub":
        return _binary("sub", importer, b, a, rest[0] if rest else 1)
    if name == "div" and rest and rest[0] is not None:
        return _rounded_division(importer, a, b, rest[0])
    alpha = rest[0] if rest and name in ("add", "sub") else 1
    return _binary(name, importer, a, b, alpha)


def _known_divisor(importer: Importer, divisor: Any) -> None:
    """Refuse a division of integers that could be by 0, which ends a C program."""
    if not isinstance(divisor, int) or divisor <= 0:
        raise importer.builder.unsupported("a division of integers by other than a number above 0")


def _rounded_division(importer: Importer, a: Any, b: Any, mode: str) -> object:
    dtype = promoted(a, b)
    if not dtype.startswith("float"):
        _known_divisor(importer, b)
        return importer.builder.elementwise(f"int_div_{mode}", [a, b], dtype)
    if mode == "floor":
        return importer.builder.elementwise("floor_div", [a, b], dtype)
    quotient = importer.builder.elementwise("div", [a, b], dtype)
    return importer.builder.elementwise(mode, [quotient], dtype)


@operator("aten::floor_divide")
def floor_divide(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return _rounded_division(importer, arguments[0], arguments[1], "floor")


@operator("aten::remainder")
def remainder(importer: Importer, node: Any, arguments: list[Any]) -> object:
    a, b = arguments
    if not is_tensor(a) and not is_tensor(b):
        return scalar_remainder(importer, arguments)
    if not promoted(a, b).startswith("float"):
        _known_divisor(importer, b)
    return importer.builder.elementwise("remainder", [a, b], promoted(a, b))


@operator("aten::pow")
def power(importer: Importer, node: Any, arguments: list[Any]) -> object:
    a, b = arguments
    if not is_tensor(a) and not is_tensor(b):
        return a**b
    dtype = promoted(a, b)
    if b in (2, 2.0):
        return importer.builder.elementwise("mul", [a, a], dtype)
    if b in (3, 3.0):
        return importer.builder.elementwise(
            "mul", [importer.builder.elementwise("mul", [a, a], dtype), a], dtype
        )
    if b in (1, 1.0):
        return importer.builder.elementwise("copy", [a], dtype, a.dtype)
    if b in (0.5, -0.5):
        root = importer.builder.elementwise("sqrt", [a], dtype)
        return root if b > 0 else importer.builder.elementwise("div", [1.0, root], dtype)
    if b in (-1, -1.0) and dtype.startswith("float"):
        return importer.builder.elementwise("div", [1.0, a], dtype)
    raise importer.builder.unsupported(f"pow with the exponent {b}")


@operator("aten::addcmul", "aten::addcdiv")
def addcmul(importer: Importer, node: Any, arguments: list[Any]) -> object:
    a, b, c, value = arguments
    dtype = promoted(a, b, c)
    if node.kind() == "aten::addcdiv":
        quotient = importer.builder.elementwise("div", [b, c], dtype)
        return importer.builder.elementwise("fma", [quotient, value, a], dtype)
    if value != 1:
        b = importer.builder.elementwise("mul", [b, value], dtype)
    return importer.builder.elementwise("fma", [b, c, a], dtype)


@operator("aten::lerp")
def lerp(importer: Importer, node: Any, arguments: list[Any]) -> object:
    start, end, weight = arguments
    dtype = start.dtype
    difference = importer.builder.elementwise("sub", [end, start], dtype)
    return importer.builder.elementwise("fma", [weight, difference, start], dtype)


@operator("aten::__and__", "aten::__or__", "aten::__xor__")
@operator("aten::bitwise_and", "aten::bitwise_or", "aten::bitwise_xor")
@operator("aten::logical_and", "aten::logical_or", "aten::logical_xor")
def bitwise(importer: Importer, node: Any, arguments: list[Any]) -> object:
    a, b = arguments
    name = node.kind().partition("::")[2].strip("_").rpartition("_")[2]
    if not is_tensor(a) and not is_tensor(b):
        return _scalar_bits(importer, name, a, b)
    if "logical" in node.kind():
        a, b = (
            v if v.dtype == "bool" else importer.builder.elementwise("ne", [v, 0], "bool", v.dtype)
            for v in (a, b)
        )
    return importer.builder.elementwise(name, [a, b], promoted(a, b))


def _scalar_bits(importer: Importer, name: str, a: Any, b: Any) -> object:
    if isinstance(a, int) and isinstance(b, int):
        return {"and": a & b, "or": a | b, "xor": a ^ b}[name]
    if isinstance(a, bool) or isinstance(b, bool):
        known, other = (a, b) if isinstance(a, bool) else (b, a)
        if name == "and":
            return other if known else False
        if name == "or":
            return True if known else other
    sign = {"and": "&", "or": "|", "xor": "^"}[name]
    kind = "int" if is_size(a) else "bool"
    return importer.define(kind, Scalar(kind, f"{c_of(a)} {sign} {c_of(b)}"))  # type: ignore[arg-type]


@operator(
    "aten::__rshift__", "aten::__lshift__", "aten::bitwise_right_shift", "aten::bitwise_left_shift"
)
def shift(importer: Importer, node: Any, arguments: list[Any]) -> object:
    a, b = arguments
    left = "l" in node.kind().replace("bitwise", "").replace("aten::", "").partition("shift")[
        0
    ].replace("right", "")
    if not is_tensor(a) and not is_tensor(b):
        if isinstance(a, int) and isinstance(b, int):
            return a << b if left else a >> b
        raise importer.builder.unsupported(
            "a shift of a number that is known only when the code runs"
        )
    bits = 8 * ITEM_SIZES[promoted(a, b)]
    if not isinstance(b, int) or not 0 <= b < bits:
        raise importer.builder.unsupported(f"a shift by other than a number from 0 to {bits - 1}")
    return importer.builder.elementwise(
        "shift_left" if left else "shift_right", [a, b], promoted(a, b)
    )


@operator("aten::bitwise_not", "aten::logical_not")
def bitwise_not(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (a,) = arguments
    if node.kind() == "aten::logical_not" and a.dtype != "bool":
        return importer.builder.elementwise("eq", [a, 0], "bool", a.dtype)
    return importer.builder.elementwise("not", [a], a.dtype)


@operator(*(f"aten::{name}" for name in COMPARISONS))
def comparison(importer: Importer, node: Any, arguments: list[Any]) -> object:
    name = node.kind().partition("::")[2]
    a, b = arguments
    if not is_tensor(a) and not is_tensor(b):
        return scalar_comparison(name, importer, a, b)
    return importer.builder.elementwise(name, [a, b], "bool", promoted(a, b))

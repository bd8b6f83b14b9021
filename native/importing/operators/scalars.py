"""Numbers: arithmetic, comparisons and truth values without tensors."""

from __future__ import annotations

import math
import operator as python
from collections.abc import Callable
from typing import Any

import sympy

from torchship.native.importing.importer import Importer
from torchship.native.importing.operators.texts import joined, text_of
from torchship.native.importing.registry import operator
from torchship.native.importing.values import (
    Device,
    ListValue,
    Optional,
    Text,
    is_size,
)
from torchship.native.ir import sizes
from torchship.native.ir.program import Scalar
from torchship.native.ir.sizes import Size


def c_of(value: object) -> str:
    """Return a number as an expression in C, in parentheses where they are needed."""
    if isinstance(value, Scalar):
        return value.text if value.text.isidentifier() else f"({value.text})"
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, float):
        if math.isnan(value) or math.isinf(value):
            return "NAN" if math.isnan(value) else ("INFINITY" if value > 0 else "-INFINITY")
        return repr(value)
    text = sizes.c_text(value)
    return text if text.isidentifier() or text.isdigit() else f"({text})"


def _is_float(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, Scalar) and value.kind == "float")


Rule = Callable[[Any, Any], Any]


def arithmetic(importer: Importer, sign: str, rule: Rule, a: Any, b: Any) -> object:
    """Return a op b for numbers: known, a size, or a new variable."""
    if isinstance(a, int | float) and isinstance(b, int | float):
        return rule(a, b)
    if sign == "/":
        return importer.define("float", Scalar("float", f"(double){c_of(a)} / (double){c_of(b)}"))
    if is_size(a) and is_size(b):
        return sizes.simple(rule(a, b))
    kind = "float" if _is_float(a) or _is_float(b) else "int"
    return importer.define(kind, Scalar(kind, f"{c_of(a)} {sign} {c_of(b)}"))  # type: ignore[arg-type]


def scalar_arithmetic(kind: str, importer: Importer, arguments: list[Any]) -> object:
    """Translate add, sub, mul, div, neg of numbers."""
    name = kind.partition("::")[2]
    if name == "neg":
        return arithmetic(importer, "-", python.sub, 0, arguments[0])
    a, b = arguments[:2]
    if isinstance(a, ListValue) and isinstance(b, ListValue):
        return ListValue([*a.items, *b.items], importer.scope)
    if isinstance(a, ListValue) and isinstance(b, int):
        return ListValue(a.items * b, importer.scope)
    if isinstance(a, str | Text):
        return joined([*text_of(importer, a), *text_of(importer, b)])
    signs: dict[str, tuple[str, Rule]] = {
        "add": ("+", python.add), "sub": ("-", python.sub), "mul": ("*", python.mul),
        "div": ("/", python.truediv),
    }  # fmt: skip
    return arithmetic(importer, *signs[name], a, b)


@operator("aten::floordiv")
def floordiv(importer: Importer, node: Any, arguments: list[Any]) -> object:
    a, b = arguments
    if is_size(a) and is_size(b):
        _positive(importer, b)
        return sizes.floor_div(a, b)
    if isinstance(a, int | float) and isinstance(b, int | float) and b != 0:
        return float(math.floor(a / b))
    return importer.define("float", Scalar("float", f"floor({c_of(a)} / {c_of(b)})"))


def _positive(importer: Importer, divisor: Size) -> None:
    if sizes.less(0, divisor) is not True:
        raise importer.builder.unsupported(
            f"a division of integers by {divisor}, which may be 0 or less"
        )


def scalar_remainder(importer: Importer, arguments: list[Any]) -> object:
    """Translate a % b of numbers."""
    a, b = arguments
    if is_size(a) and is_size(b):
        _positive(importer, b)
        return sizes.modulo(a, b)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return a % b
    raise importer.builder.unsupported("the remainder of floats")


@operator("prim::abs")
def absolute(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (value,) = arguments
    if isinstance(value, Scalar):
        if value.kind != "float":
            raise importer.builder.unsupported("abs of a bool")
        return importer.define("float", Scalar("float", f"fabs({c_of(value)})"))
    return scalar_function("abs", importer, value)


@operator("aten::__range_length")
def range_length(importer: Importer, node: Any, arguments: list[Any]) -> object:
    start, end, step = arguments
    if not isinstance(step, int) or step == 0:
        raise importer.builder.unsupported(f"a range with the step {step}")
    return count_of_range(start, end, step)


def count_of_range(start: Size, end: Size, step: int) -> Size:
    """Return how many numbers a range has."""
    count = sizes.simple(end - start if step > 0 else start - end)
    if abs(step) != 1:
        count = sizes.floor_div(count + abs(step) - 1, abs(step))
    return count if sizes.less(count, 0) is False else sizes.larger(count, 0)


@operator("aten::__derive_index")
def derive_index(importer: Importer, node: Any, arguments: list[Any]) -> object:
    index, start, step = arguments
    return sizes.simple(start + index * step)


@operator("prim::min", "prim::max")
def smallest(importer: Importer, node: Any, arguments: list[Any]) -> object:
    items = arguments[0].items if isinstance(arguments[0], ListValue) else arguments
    if not all(map(is_size, items)):
        if all(isinstance(item, int | float) for item in items):
            return min(items) if node.kind().endswith("min") else max(items)
        raise importer.builder.unsupported(f"{node.kind()} of other than integers")
    result = items[0]
    big = 2**63 - 1
    for item in items[1:]:
        if node.kind().endswith("min"):
            result = (
                item if result == big else result if item == big else sizes.smaller(result, item)
            )
        else:
            result = sizes.larger(result, item)
    return result


def scalar_function(name: str, importer: Importer, value: Any) -> object:
    """Translate sqrt, exp, log, floor, ceil, abs of a number."""
    known: dict[str, Callable[[Any], object]] = {
        "sqrt": math.sqrt,
        "exp": math.exp,
        "log": math.log,
        "floor": math.floor,
        "ceil": math.ceil,
        "abs": abs,
    }
    if isinstance(value, int | float):
        return known[name](value)
    if name == "abs" and is_size(value):
        return sizes.simple(sympy.Max(value, -value))
    raise importer.builder.unsupported(f"{name} of a number that is known only when the code runs")


COMPARISONS: dict[str, tuple[str, Rule]] = {
    "eq": ("==", python.eq), "ne": ("!=", python.ne), "lt": ("<", python.lt),
    "le": ("<=", python.le), "gt": (">", python.gt), "ge": (">=", python.ge),
}  # fmt: skip


def scalar_comparison(name: str, importer: Importer, a: Any, b: Any) -> object:
    """Translate a comparison of numbers, texts or lists."""
    sign, rule = COMPARISONS[name]
    if isinstance(a, ListValue) and isinstance(b, ListValue):
        return _lists_equal(importer, name, a.items, b.items)
    plain = isinstance(b, Device) or isinstance(a, Device | str | bool | type(None))
    if plain and not isinstance(b, sympy.Expr | Scalar):
        return rule(a, b)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return rule(a, b)
    if is_size(a) and is_size(b):
        known = {
            "eq": lambda: sizes.equal(a, b), "ne": lambda: _not(sizes.equal(a, b)),
            "lt": lambda: sizes.less(a, b), "ge": lambda: _not(sizes.less(a, b)),
            "gt": lambda: sizes.less(b, a), "le": lambda: _not(sizes.less(b, a)),
        }[name]()  # fmt: skip
        if known is not None:
            return known
    made = importer.define("bool", Scalar("bool", f"{c_of(a)} {sign} {c_of(b)}"))
    if is_size(a) and is_size(b):
        rest = {"lt": a - b, "le": a - b - 1, "gt": b - a, "ge": b - a - 1}.get(name)
        importer.at_least_0[made.text] = [] if rest is None else [sizes.simple(rest)]
    return made


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _lists_equal(importer: Importer, name: str, a: list[Any], b: list[Any]) -> object:
    if len(a) != len(b):
        return name == "ne"
    unknown = []
    for left, right in zip(a, b, strict=True):
        if not (is_size(left) and is_size(right)):
            if left != right:
                return name == "ne"
            continue
        same = sizes.equal(left, right)
        if same is False:
            return name == "ne"
        if same is None:
            unknown.append(f"{c_of(left)} == {c_of(right)}")
    if not unknown:
        return name == "eq"
    text = " && ".join(unknown)
    return importer.define("bool", Scalar("bool", text if name == "eq" else f"!({text})"))


@operator("aten::__not__")
def logical_not(importer: Importer, node: Any, arguments: list[Any]) -> object:
    truth = importer.truth(arguments[0])
    if isinstance(truth, bool):
        return not truth
    return importer.define("bool", Scalar("bool", f"!{c_of(truth)}"))


@operator("aten::__is__", "aten::__isnot__")
def identity(importer: Importer, node: Any, arguments: list[Any]) -> object:
    a, b = arguments
    positive = node.kind() == "aten::__is__"
    if a is None or b is None:
        other = b if a is None else a
        if not isinstance(other, Optional):
            return (other is None) == positive
        return Scalar("bool", other.flag) if not positive else _absent(importer, other.flag)
    return (a is b) == positive


def _absent(importer: Importer, flag: str) -> object:
    known = importer.assumed.get(flag)
    return Scalar("bool", f"!{flag}") if known is None else not known


def dtype_of_number(value: object) -> str:
    """Return the dtype that torch gives to a tensor of a number."""
    if isinstance(value, bool) or (isinstance(value, Scalar) and value.kind == "bool"):
        return "bool"
    return (
        "int64"
        if is_size(value) or (isinstance(value, Scalar) and value.kind == "int")
        else "float32"
    )

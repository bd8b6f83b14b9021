"""Numbers, texts, lists, dicts and questions about tensors: what graphs do beside tensors."""

from __future__ import annotations

import math
import operator as python
from collections.abc import Callable
from typing import Any

import sympy

from torchship.native.importing.importer import UNINITIALISED, Importer, Raised, operator, stack_of
from torchship.native.importing.values import (
    Device,
    DictValue,
    Full,
    IntegersOf,
    ListValue,
    Optional,
    StackedList,
    Text,
    is_size,
    is_tensor,
)
from torchship.native.ir import sizes
from torchship.native.ir.layout import select
from torchship.native.ir.program import Raise, Scalar, View
from torchship.native.ir.sizes import Size

DTYPE_CODES = {
    "uint8": 0, "int8": 1, "int16": 2, "int32": 3, "int64": 4,
    "float32": 6, "float64": 7, "bool": 11,
}  # fmt: skip
DTYPES = {code: name for name, code in DTYPE_CODES.items()}


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


@operator("prim::unchecked_cast")
def unchecked_cast(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (value,) = arguments
    return value.value if isinstance(value, Optional) else value


@operator("prim::unchecked_unwrap_optional", "aten::_unwrap_optional")
def unwrap(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return unchecked_cast(importer, node, arguments)


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
        parts += [piece, *_text_of(importer, value)]
    return _joined(parts)


@operator("aten::str")
def to_text(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return _joined(_text_of(importer, arguments[0]))


def _text_of(importer: Importer, value: object) -> list[Any]:
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


def _joined(parts: list[Any]) -> object:
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


# --- numbers ---


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
        return _joined([*_text_of(importer, a), *_text_of(importer, b)])
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


# --- lists, dicts ---


@operator("aten::append")
def append(importer: Importer, node: Any, arguments: list[Any]) -> object:
    importer.append(*arguments)
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
        importer.append(arguments[0], item)
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


# --- questions about tensors ---


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


@operator(
    "prim::is_cuda",
    "prim::is_nested",
    "prim::requires_grad",
    "prim::is_sparse",
    "aten::requires_grad",
)
def never(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return False


@operator("aten::is_grad_enabled", "aten::is_autocast_enabled", "aten::is_autocast_cpu_enabled")
def not_enabled(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return False


@operator("aten::is_floating_point")
def is_floating_point(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return arguments[0].dtype.startswith("float")


@operator("aten::Int", "aten::IntImplicit")
def to_int(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (value,) = arguments
    if is_tensor(value):
        return importer.define("int", single(importer, value))
    if is_size(value):
        return value
    if isinstance(value, bool | float):
        return int(value)
    return importer.define("int", Scalar("int", f"(int64_t){c_of(value)}"))


@operator("aten::Float", "aten::FloatImplicit")
def to_float(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (value,) = arguments
    if is_tensor(value):
        return importer.define("float", single(importer, value))
    if isinstance(value, int | float):
        return float(value)
    return importer.define("float", Scalar("float", f"(double){c_of(value)}"))


@operator("aten::Bool")
def to_bool(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (value,) = arguments
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


def dtype_of_number(value: object) -> str:
    """Return the dtype that torch gives to a tensor of a number."""
    if isinstance(value, bool) or (isinstance(value, Scalar) and value.kind == "bool"):
        return "bool"
    return (
        "int64"
        if is_size(value) or (isinstance(value, Scalar) and value.kind == "int")
        else "float32"
    )

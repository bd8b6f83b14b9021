"""Elementwise operators, casts, and tensors made of numbers."""

from __future__ import annotations

from typing import Any

import sympy
import torch

from torchship.native.importing.importer import Importer, operator
from torchship.native.importing.scalars import (
    COMPARISONS,
    DTYPES,
    c_of,
    count_of_range,
    dtype_of_number,
    get_item,
    scalar_arithmetic,
    scalar_comparison,
    scalar_function,
    scalar_remainder,
)
from torchship.native.importing.values import (
    Full,
    ListValue,
    OneHot,
    Tensor,
    is_size,
    is_tensor,
)
from torchship.native.importing.views import full_like, reshaped
from torchship.native.ir import sizes
from torchship.native.ir.dtypes import ITEM_SIZES, NAMES, TORCH
from torchship.native.ir.layout import narrow
from torchship.native.ir.program import Elementwise, Iota, Scalar, View
from torchship.native.ir.sizes import Size
from torchship.script.runtime import torchscript

UNSUPPORTED_DTYPES = {
    5: "float16",
    8: "complex32",
    9: "complex64",
    10: "complex128",
    15: "bfloat16",
}
"""By TorchScript's number."""
UNARY_FLOAT = {
    "tanh", "sigmoid", "exp", "log", "sqrt", "rsqrt", "reciprocal", "erf", "expm1", "log1p", "sin",
    "cos", "silu", "softplus", "mish", "hardswish", "hardsigmoid", "selu", "elu", "gelu", "log2",
}  # fmt: skip
UNARY_ANY = {"relu", "abs", "neg", "floor", "ceil", "sign", "round", "trunc", "square", "relu6"}


def promoted(*values: Any) -> str:
    """Return the dtype that torch gives to an operation on tensors and numbers."""
    made = [_sample(value) for value in values]
    result = made[0].dtype if isinstance(made[0], torch.Tensor) else None
    state = made[0]
    for other in made[1:]:
        result = torch.result_type(state, other)
        rank = max(getattr(state, "ndim", 0), getattr(other, "ndim", 0))
        state = torch.empty([1] * rank, dtype=result, device="meta")
    assert result is not None
    return NAMES[result]


def _sample(value: Any) -> Any:
    if is_tensor(value):
        return torch.empty([1] * len(value.shape), dtype=TORCH[value.dtype], device="meta")
    if isinstance(value, sympy.Expr):
        return 1
    if isinstance(value, Scalar):
        return {"int": 1, "float": 1.0, "bool": True}[value.kind]
    return value


def floating(dtype: str) -> str:
    """Return the dtype of a function such as exp of a tensor of `dtype`."""
    return dtype if dtype.startswith("float") else "float32"


# --- arithmetic ---


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


@operator("aten::add", "aten::sub", "aten::mul", "aten::div", "aten::rsub", "aten::true_divide")
def arithmetic(importer: Importer, node: Any, arguments: list[Any]) -> object:
    name = {"true_divide": "div"}.get(n := node.kind().partition("::")[2], n)
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


# --- functions ---


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


@operator("aten::maximum", "aten::minimum", "aten::fmax", "aten::fmin")
def extreme(importer: Importer, node: Any, arguments: list[Any]) -> object:
    if node.kind() in ("aten::fmax", "aten::fmin"):
        raise importer.builder.unsupported(f"operator {node.kind()} has no C yet")
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


# --- casts and new tensors ---


@operator("aten::to", "aten::type_as", "aten::_to_copy")
def to(importer: Importer, node: Any, arguments: list[Any]) -> object:
    made = _converted(importer, arguments)
    names = [argument.name for argument in torchscript.declared_arguments(node)]
    copies = "copy" in names and arguments[names.index("copy")] is not False
    if importer.mutates and copies and made is arguments[0]:
        return _own_copy(importer, importer.builder.materialise(made))
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


@operator("aten::float", "aten::long", "aten::int", "aten::bool", "aten::double")
def cast_to(importer: Importer, node: Any, arguments: list[Any]) -> object:
    names = {
        "float": "float32",
        "long": "int64",
        "int": "int32",
        "bool": "bool",
        "double": "float64",
    }
    return cast(importer, arguments[0], names[node.kind().partition("::")[2]])


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


# --- in place ---


@operator("aten::copy_", "aten::fill_", "aten::zero_")
def copy_in_place(importer: Importer, node: Any, arguments: list[Any]) -> object:
    target = _writable(importer, arguments[0])
    if node.kind() == "aten::zero_":
        value: Any = 0
    else:
        value = arguments[1]
    if not is_tensor(value):
        value = Full(value, target.dtype, tuple(target.shape))
    if isinstance(value, View) and value.storage is target.storage:
        value = _own_copy(importer, value)
    _store(importer, full_like(value, target.shape) if isinstance(value, Full) else value, target)
    return target


def _writable(importer: Importer, value: Any) -> View:
    """Return a tensor that is written in place; only what the method made may be."""
    target = importer.builder.materialise(value)
    what = {
        "input": "an input of the method",
        "weight": "a parameter or buffer",
        "pointer": "a tensor that is another one in each branch",
    }.get(target.storage.kind)
    if what is not None:
        note = importer.builder.note
        raise importer.builder.unsupported(f"operator {note} that writes in place to {what}")
    return target


def _store(importer: Importer, value: Any, target: View) -> None:
    importer.places.written(target, importer.builder.copy(value, target))


def _own_copy(importer: Importer, view: View) -> View:
    out = importer.builder.temporary(view.dtype, view.shape)
    importer.builder.copy(view, out)
    return out


IN_PLACE = {
    "add_": arithmetic, "sub_": arithmetic, "mul_": arithmetic, "div_": arithmetic,
    "relu_": unary, "sigmoid_": unary, "tanh_": unary, "exp_": unary, "neg_": unary, "abs_": unary,
    "silu_": unary, "hardswish_": unary, "hardsigmoid_": unary, "elu_": unary, "relu6_": unary,
    "masked_fill_": masked_fill, "clamp_": bounded, "leaky_relu_": bounded, "hardtanh_": bounded,
    "clamp_min_": bounded, "clamp_max_": bounded, "addcmul_": addcmul, "lerp_": lerp,
}  # fmt: skip


class _Renamed:
    """A node of the operator that computes what one in place then stores."""

    def __init__(self, node: Any) -> None:
        self._node = node

    def kind(self) -> str:
        kind: str = self._node.kind()
        return kind.removesuffix("_")


@operator(*(f"aten::{name}" for name in IN_PLACE))
def in_place(importer: Importer, node: Any, arguments: list[Any]) -> object:
    target = _writable(importer, arguments[0])
    name = node.kind().partition("::")[2]
    result: Any = IN_PLACE[name](importer, _Renamed(node), [target, *arguments[1:]])
    _store(importer, result, target)
    return target


@operator("aten::__getitem__")
def getitem(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return get_item(importer, arguments)


@operator("aten::warn", "prim::Print")
def nothing(importer: Importer, node: Any, arguments: list[Any]) -> object:
    return ()

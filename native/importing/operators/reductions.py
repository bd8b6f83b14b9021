"""Sums, extremes, softmax and normalisations: operators that combine the elements of an axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchship.native.importing.importer import Importer
from torchship.native.importing.operators.casts import cast
from torchship.native.importing.operators.promotion import promoted
from torchship.native.importing.operators.views import axis_of, permuted, reshaped
from torchship.native.importing.registry import operator
from torchship.native.importing.values import ListValue, Tensor, is_weight
from torchship.native.ir import sizes
from torchship.native.ir.dtypes import DTYPES
from torchship.native.ir.program import View
from torchship.native.ir.sizes import Size
from torchship.native.ir.weights import weight_value


def _axes(value: Any, rank: int) -> list[int]:
    if value is None or (isinstance(value, ListValue) and not value.items):
        return list(range(rank))
    items = value.items if isinstance(value, ListValue) else [value]
    return [axis_of(axis, rank) for axis in items]


def reduce(
    importer: Importer, kind: str, value: Tensor, axes: Sequence[int], keep: bool, dtype: str
) -> View:
    """Return a reduction over axes; `kind` is sum, prod, max, min, any, all, argmax or argmin."""
    view = importer.builder.materialise(value)
    if kind in ("max", "min", "argmax", "argmin"):
        view = importer.builder.narrowest(view)
    outer = [axis for axis in range(len(view.shape)) if axis not in axes]
    moved = permuted(view, [*outer, *axes])
    assert isinstance(moved, View)
    shape = [view.shape[axis] for axis in outer]
    out = importer.builder.temporary(dtype, shape)
    importer.builder.call("reduce", [out], [moved], kind=kind, outer=len(outer))
    if not keep:
        return out
    kept: list[Size] = [1 if axis in axes else view.shape[axis] for axis in range(len(view.shape))]
    made = reshaped(importer, out, kept)
    assert isinstance(made, View)
    return made


def _count(importer: Importer, value: Tensor, axes: Sequence[int]) -> Any:
    return sizes.product(value.shape[axis] for axis in axes)


@operator("aten::sum", "aten::mean", "aten::prod")
def total(importer: Importer, node: Any, arguments: list[Any]) -> object:
    name = node.kind().partition("::")[2]
    value, *rest = arguments
    rank = len(value.shape)
    code = rest[-1]
    axes, keep = (_axes(rest[0], rank), rest[1]) if len(rest) == 3 else (list(range(rank)), False)
    if code is not None:
        value = cast(importer, value, DTYPES[code])
    elif not value.dtype.startswith("float"):
        value = cast(importer, value, "int64")
    if name == "mean":
        made = reduce(importer, "sum", value, axes, keep, value.dtype)
        return importer.builder.elementwise(
            "div", [made, _count(importer, value, axes)], value.dtype
        )
    return reduce(importer, "sum" if name == "sum" else "prod", value, axes, keep, value.dtype)


@operator("aten::max", "aten::min")
def largest(importer: Importer, node: Any, arguments: list[Any]) -> object:
    name = node.kind().partition("::")[2]
    value, *rest = arguments
    if len(rest) == 1:
        return importer.builder.elementwise(name, [value, rest[0]], promoted(value, rest[0]))
    if not rest:
        return reduce(importer, name, value, list(range(len(value.shape))), False, value.dtype)
    axis, keep = rest
    axes = [axis_of(axis, len(value.shape))]
    return (
        reduce(importer, name, value, axes, keep, value.dtype),
        reduce(importer, f"arg{name}", value, axes, keep, "int64"),
    )


@operator("aten::amax", "aten::amin")
def amax(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, axes, keep = arguments
    kind = node.kind().partition("::")[2].removeprefix("a")
    return reduce(importer, kind, value, _axes(axes, len(value.shape)), keep, value.dtype)


@operator("aten::argmax", "aten::argmin")
def argmax(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, axis, keep = arguments
    name = node.kind().partition("::")[2]
    if axis is None:
        value = reshaped(importer, value, [sizes.product(value.shape)])
        axis = 0
    return reduce(importer, name, value, [axis_of(axis, len(value.shape))], keep, "int64")


@operator("aten::any", "aten::all")
def any_all(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, *rest = arguments
    rank = len(value.shape)
    axes, keep = (_axes(rest[0], rank), rest[1]) if rest else (list(range(rank)), False)
    if value.dtype != "bool":
        value = importer.builder.elementwise("ne", [value, 0], "bool", value.dtype)
    return reduce(importer, node.kind().partition("::")[2], value, axes, keep, "bool")


@operator("aten::var", "aten::std")
def variance(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, *rest = arguments
    rank = len(value.shape)
    if len(rest) == 1:
        axes, keep, correction = list(range(rank)), False, int(bool(rest[0]))
    else:
        axes, given, keep = _axes(rest[0], rank), rest[1], rest[2]
        correction = 1 if given is None else int(given)
    make, dtype = importer.builder.elementwise, value.dtype
    count = _count(importer, value, axes)
    mean = make("div", [reduce(importer, "sum", value, axes, True, dtype), count], dtype)
    centred = make("sub", [value, mean], dtype)
    squares = reduce(importer, "sum", make("mul", [centred, centred], dtype), axes, keep, dtype)
    made = make("div", [squares, sizes.simple(count - correction)], dtype)
    return make("sqrt", [made], dtype) if node.kind() == "aten::std" else made


def _last(importer: Importer, value: Tensor, axis: int) -> View:
    """Return the tensor with one axis last and contiguous."""
    order = [a for a in range(len(value.shape)) if a != axis] + [axis]
    moved = permuted(value, order)
    return importer.builder.contiguous(moved)


def _back(view: View, axis: int) -> View:
    order = list(range(len(view.shape) - 1))
    order.insert(axis, len(view.shape) - 1)
    made = permuted(view, order)
    assert isinstance(made, View)
    return made


def along(importer: Importer, kernel: str, value: Tensor, axis: int, **attributes: object) -> View:
    """Return a kernel that maps rows to rows, applied along one axis."""
    axis = axis_of(axis, len(value.shape))
    view = _last(importer, value, axis)
    out = importer.builder.temporary(view.dtype, view.shape)
    importer.builder.call(kernel, [out], [view], **attributes)
    return _back(out, axis)


@operator("aten::softmax", "aten::log_softmax", "aten::_softmax", "aten::_log_softmax")
def softmax(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, axis = arguments[:2]
    if len(arguments) > 2 and isinstance(arguments[2], int) and not isinstance(arguments[2], bool):
        value = cast(importer, value, DTYPES[arguments[2]])
    if value.dtype != "float32":
        raise importer.builder.unsupported(f"softmax of {value.dtype}: float32 has C")
    kernel = "log_softmax" if "log" in node.kind() else "softmax"
    return along(importer, kernel, value, axis)


@operator("aten::cumsum")
def cumsum(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, axis, code = arguments
    if code is not None:
        value = cast(importer, value, DTYPES[code])
    elif not value.dtype.startswith("float"):
        value = cast(importer, value, "int64")
    return along(importer, "cumsum", value, axis)


@operator("aten::logsumexp")
def logsumexp(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, axes, keep = arguments
    listed = _axes(axes, len(value.shape))
    make, dtype = importer.builder.elementwise, value.dtype
    top = reduce(importer, "max", value, listed, True, dtype)
    finite = make(
        "where",
        [make("lt", [make("abs", [top], dtype), float("inf")], "bool", dtype), top, 0.0],
        dtype,
    )
    powers = make("exp", [make("sub", [value, finite], dtype)], dtype)
    sums = make("log", [reduce(importer, "sum", powers, listed, keep, dtype)], dtype)
    base = finite if keep else reshaped(importer, finite, sums.shape)
    return make("add", [sums, base], dtype)


@operator("aten::layer_norm")
def layer_norm(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, shape, weight, bias, eps = arguments[:5]
    return normalised(importer, value, len(shape.items), weight, bias, eps)


def normalised(
    importer: Importer, value: Tensor, axes: int, weight: View | None, bias: View | None, eps: float
) -> View:
    """Return the layer normalisation over the last axes."""
    if value.dtype != "float32":
        raise importer.builder.unsupported(f"a normalisation of {value.dtype}: float32 has C")
    view = importer.builder.contiguous(value)
    out = importer.builder.temporary("float32", view.shape)
    size = sizes.product(view.shape[len(view.shape) - axes :])
    rows = sizes.product(view.shape[: len(view.shape) - axes])
    flat = [rows, size], [size, 1]
    inputs = [view.with_shape(*flat)]
    for parameter in (weight, bias):
        if parameter is not None:
            inputs.append(importer.builder.contiguous(parameter).with_shape([size], [1]))
    importer.builder.call(
        "layer_norm",
        [out.with_shape(*flat)],
        inputs,
        eps=eps,
        weight=weight is not None,
        bias=bias is not None,
    )
    return out


@operator("aten::group_norm", "aten::instance_norm")
def group_norm(importer: Importer, node: Any, arguments: list[Any]) -> object:
    if node.kind() == "aten::group_norm":
        value, groups, weight, bias, eps = arguments[:5]
    else:
        value, weight, bias, mean, _, use_input, _, eps = arguments[:8]
        if mean is not None or importer.truth(use_input) is not True:
            raise importer.builder.unsupported("instance_norm with running statistics")
        groups = value.shape[1]
    n, channels, *rest = value.shape
    inner = sizes.product([sizes.floor_div(channels, groups), *rest])
    rows = reshaped(importer, importer.builder.contiguous(value), [n, groups, inner])
    made: Any = reshaped(importer, normalised(importer, rows, 1, None, None, eps), value.shape)
    shape = [channels, *[1] * len(rest)]
    if weight is not None:
        scale, shift = (reshaped(importer, parameter, shape) for parameter in (weight, bias))
        made = importer.builder.elementwise("fma", [made, scale, shift], "float32")
    return made


@operator("aten::batch_norm")
def batch_norm(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, weight, bias, mean, var, training, _, eps = arguments[:8]
    if importer.truth(training) is not False or not all(
        p is None or is_weight(p) for p in (weight, bias, mean, var)
    ):
        raise importer.builder.unsupported("batch_norm that is not in eval mode")
    known = [None if p is None else weight_value(p).double() for p in (weight, bias, mean, var)]
    assert known[2] is not None and known[3] is not None
    scale = (known[3] + eps).rsqrt()
    if known[0] is not None:
        scale = scale * known[0]
    shift = -known[2] * scale
    if known[1] is not None:
        shift = shift + known[1]
    if value.dtype != "float32" or sizes.equal(value.shape[1], len(scale)) is not True:
        raise importer.builder.unsupported(
            f"batch_norm of {len(scale)} channels applied to {value.dtype}{list(value.shape)}"
        )
    axes = [len(scale), *[1] * (len(value.shape) - 2)]
    hint = importer.builder.hint or "norm"
    views = [
        importer.builder.weight(f"{hint}_{n}", t.float())
        for n, t in (("scale", scale), ("shift", shift))
    ]
    factors = [reshaped(importer, view, axes) for view in views]
    return importer.builder.elementwise("fma", [value, *factors], "float32")


@operator("aten::max_pool2d", "aten::avg_pool2d", "aten::max_pool1d", "aten::avg_pool1d")
def pool(importer: Importer, node: Any, arguments: list[Any]) -> object:
    name = node.kind().partition("::")[2]
    value, *rest = arguments
    flat = name.endswith("1d")
    kernel, stride, padding = (list(item.items) for item in rest[:3])
    stride = stride or kernel
    options = rest[3:]
    dilation = [1, 1]
    if name.startswith("max"):
        dilation, ceil = list(options[0].items), options[1]
        counted = False
    else:
        ceil, counted = options[0], options[1]
        if len(options) > 2 and options[2] is not None:
            raise importer.builder.unsupported("avg_pool2d with a divisor of its own")
    if importer.truth(ceil) is not False:
        raise importer.builder.unsupported("pooling with ceil_mode")
    if value.dtype != "float32":
        raise importer.builder.unsupported(f"pooling of {value.dtype}: float32 has C")
    view = importer.builder.materialise(value)
    unbatched = len(view.shape) == (2 if flat else 3)
    if unbatched:
        view = view.with_shape([1, *view.shape], [0, *view.strides])
    if flat:
        view = view.with_shape(
            [*view.shape[:2], 1, view.shape[2]], [*view.strides[:2], 0, view.strides[2]]
        )
        kernel, stride, padding, dilation = (
            [1, *kernel],
            [1, *stride],
            [0, *padding],
            [1, *dilation[:1]],
        )
    pairs = [(a * 2)[:2] if len(a) == 1 else a for a in (kernel, stride, padding, dilation)]
    kernel, stride, padding, dilation = pairs
    out_size = [
        sizes.simple(sizes.floor_div(size + 2 * p - d * (k - 1) - 1, s) + 1)
        for size, k, s, p, d in zip(view.shape[2:], kernel, stride, padding, dilation, strict=True)
    ]
    for size, given in zip(out_size, view.shape[2:], strict=True):
        importer.require_positive(size, "pooling: the output is too small for an input of ", given)
    out = importer.builder.temporary("float32", [*view.shape[:2], *out_size], [0, 2, 3, 1])
    importer.builder.call(
        "pool", [out], [view], kind=name[:3], kernel=tuple(kernel), stride=tuple(stride),
        padding=tuple(padding), dilation=tuple(dilation), counted=counted,
    )  # fmt: skip
    if flat:
        out = out.with_shape([*out.shape[:2], out.shape[3]], [*out.strides[:2], out.strides[3]])
    return out.with_shape(out.shape[1:], out.strides[1:]) if unbatched else out


@operator("aten::adaptive_avg_pool2d", "aten::adaptive_avg_pool1d")
def adaptive_pool(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, target = arguments
    axes = 1 if node.kind().endswith("1d") else 2
    wanted = [1 if n is None else n for n in target.items]
    if any(n != 1 for n in wanted):
        raise importer.builder.unsupported("adaptive pooling to another size than 1")
    rank = len(value.shape)
    listed = list(range(rank - axes, rank))
    made = reduce(importer, "sum", value, listed, True, value.dtype)
    return importer.builder.elementwise("div", [made, _count(importer, value, listed)], value.dtype)

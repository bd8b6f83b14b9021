"""Operators that move no data: slices, permutations, reshapes, and the lists of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchship.native.importing.importer import Importer
from torchship.native.importing.registry import operator
from torchship.native.importing.values import (
    Concat,
    Full,
    ListValue,
    OneHot,
    StackedList,
    Tensor,
    stack_of,
)
from torchship.native.ir import sizes
from torchship.native.ir.layout import contiguous_strides, is_contiguous, narrow, select
from torchship.native.ir.program import If, Raise, Scalar, View
from torchship.native.ir.sizes import Size


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front."""
    return axis + rank if axis < 0 else axis


def full_like(value: Full, shape: Sequence[Size]) -> Full:
    """Return a constant tensor of another shape."""
    return Full(value.value, value.dtype, tuple(shape))


@operator("aten::slice")
def slice_(importer: Importer, node: Any, arguments: list[Any]) -> object:
    if not hasattr(arguments[0], "shape"):
        return _list_slice(importer, arguments)
    value, axis, start, end, step = arguments
    axis = axis_of(axis, len(value.shape))
    size = value.shape[axis]
    begin = _bound(importer, 0 if start is None else start, size)
    stop = size if end is None else _bound(importer, end, size)
    length = sizes.simple(stop - begin)
    if sizes.less(length, 0) is True:
        length = 0
    elif sizes.less(length, 0) is None:
        length = sizes.larger(length, 0)
    if step != 1:
        length = sizes.floor_div(length + step - 1, step)
    if begin == 0 and step == 1 and sizes.equal(length, size) is True:
        return value
    if isinstance(value, Full):
        shape = list(value.shape)
        shape[axis] = length
        return full_like(value, shape)
    return narrow(importer.builder.materialise(value), axis, begin, length, step)


def _bound(importer: Importer, bound: Size, size: Size) -> Size:
    """Return where a slice begins or ends: from the end if negative, and inside of the axis."""
    negative = sizes.less(bound, 0)
    if negative is None:
        raise importer.builder.unsupported(f"a slice at {bound}, which may be negative or not")
    if negative:
        bound = sizes.simple(bound + size)
        if sizes.less(bound, 0) is not False:
            bound = 0 if sizes.less(bound, 0) else sizes.larger(bound, 0)
        return bound
    if isinstance(bound, int) and bound >= 2**63 - 1:
        return size
    fits = sizes.less(size, bound)
    return bound if fits is False else size if fits else sizes.smaller(bound, size)


def _list_slice(importer: Importer, arguments: list[Any]) -> object:
    value, start, end, step = arguments
    if stack_of(value) is not None:
        raise importer.builder.unsupported("a slice of a list of unknown length")
    items = value.items if isinstance(value, ListValue) else list(value)
    end = None if end is None or end >= 2**63 - 1 else end
    return ListValue(items[start:end:step], importer.scope)


def checked_index(importer: Importer, index: Size, size: Size, where: str) -> Size:
    """Return an index counted from the front; where it may be outside, the C looks and raises."""
    if isinstance(index, int) and index < 0:
        index = sizes.simple(index + size)
        below = sizes.less(index, 0)
    elif isinstance(index, int):
        below = False
    else:
        if sizes.less(index, 0) is not False and index not in importer.loops:
            text, whole = sizes.c_text(index), sizes.c_text(size)
            index = importer.define("int", Scalar("int", f"{text} < 0 ? {text} + {whole} : {text}"))
        below = sizes.less(index, 0)
    above = sizes.less(index, size)
    if importer.fits(index, size) or (below is False and above is True):
        return index
    if below is True or above is False:
        raise importer.builder.unsupported(
            f"index {index} is out of bounds {where} with size {size}"
        )
    text = f"{sizes.c_text(index)} < 0 || {sizes.c_text(index)} >= {sizes.c_text(size)}"
    message = Raise(("index ", index, f" is out of bounds {where} with size ", size))
    message.where, message.note = importer.builder.where, importer.builder.note
    importer.builder.add(If(Scalar("bool", text), [message], []))
    return index


@operator("aten::select")
def select_(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, axis, index = arguments
    axis = axis_of(axis, len(value.shape))
    if isinstance(value, Full):
        return full_like(value, [n for i, n in enumerate(value.shape) if i != axis])
    index = checked_index(importer, index, value.shape[axis], f"for dimension {axis}")
    return select(importer.builder.materialise(value), axis, index)


@operator("aten::unsqueeze")
def unsqueeze(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, axis = arguments
    axis = axis_of(axis, len(value.shape) + 1)
    shape = [*value.shape[:axis], 1, *value.shape[axis:]]
    if isinstance(value, Full):
        return full_like(value, shape)
    view = importer.builder.materialise(value)
    return view.with_shape(shape, [*view.strides[:axis], 0, *view.strides[axis:]])


@operator("aten::squeeze")
def squeeze(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value = arguments[0]
    rank = len(value.shape)
    if len(arguments) == 1:
        axes = list(range(rank))
    else:
        given = arguments[1]
        axes = [
            axis_of(a, rank) for a in (given.items if isinstance(given, ListValue) else [given])
        ]
    dropped = []
    for axis in axes:
        known = sizes.equal(value.shape[axis], 1)
        if known is None:
            raise importer.builder.unsupported("squeeze of a size that may be 1 or not")
        if known is True:
            dropped.append(axis)
    kept = [axis for axis in range(rank) if axis not in dropped]
    if isinstance(value, Full):
        return full_like(value, [value.shape[axis] for axis in kept])
    view = importer.builder.materialise(value)
    return view.with_shape([view.shape[a] for a in kept], [view.strides[a] for a in kept])


@operator("aten::permute")
def permute(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, axes = arguments
    return permuted(value, [axis_of(axis, len(value.shape)) for axis in axes.items])


@operator("aten::transpose")
def transpose(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, a, b = arguments
    axes = list(range(len(value.shape)))
    a, b = axis_of(a, len(axes)), axis_of(b, len(axes))
    axes[a], axes[b] = axes[b], axes[a]
    return permuted(value, axes)


@operator("aten::t", "aten::numpy_T")
def t(importer: Importer, node: Any, arguments: list[Any]) -> object:
    (value,) = arguments
    return permuted(value, list(reversed(range(len(value.shape)))))


def permuted(value: Tensor, axes: list[int]) -> Tensor:
    """Return the tensor with its axes in another order."""
    if isinstance(value, View):
        return value.with_shape([value.shape[a] for a in axes], [value.strides[a] for a in axes])
    if isinstance(value, Full):
        return full_like(value, [value.shape[a] for a in axes])
    if isinstance(value, OneHot):
        inner = [a if a < value.axis else a - 1 for a in axes if a != value.axis]
        index = value.index.with_shape(
            [value.index.shape[a] for a in inner], [value.index.strides[a] for a in inner]
        )
        return OneHot(index, value.classes, axes.index(value.axis), value.dtype)
    parts = tuple(permuted(part, axes) for part in value.parts)
    shape = tuple(value.shape[a] for a in axes)
    return Concat(parts, axes.index(value.axis), value.dtype, shape)  # type: ignore[arg-type]


@operator("aten::expand", "aten::expand_as")
def expand(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, target = arguments[:2]
    wanted = list(target.items) if isinstance(target, ListValue) else list(target.shape)
    return expanded(importer, value, wanted)


def expanded(importer: Importer, value: Tensor, wanted: list[Size]) -> Tensor:
    """Return the tensor broadcast to a shape in which -1 keeps a size."""
    missing = len(wanted) - len(value.shape)
    shape = [
        value.shape[i - missing] if isinstance(size, int) and size == -1 else size
        for i, size in enumerate(wanted)
    ]
    importer.builder.broadcast([shape, value.shape])
    if isinstance(value, Full):
        return full_like(value, shape)
    return importer.builder.materialise(value).expanded(shape)


@operator("aten::view", "aten::reshape", "aten::_unsafe_view", "aten::view_as", "aten::reshape_as")
def reshape(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, target = arguments
    wanted = list(target.items) if isinstance(target, ListValue) else list(target.shape)
    return reshaped(importer, value, resolved(importer, value.shape, wanted))


@operator("aten::flatten")
def flatten(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, start, end = arguments
    rank = len(value.shape)
    if rank == 0:
        return reshaped(importer, value, [1])
    start, end = axis_of(start, rank), axis_of(end, rank)
    shape = [
        *value.shape[:start],
        sizes.product(value.shape[start : end + 1]),
        *value.shape[end + 1 :],
    ]
    return reshaped(importer, value, shape)


@operator("aten::unflatten")
def unflatten(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, axis, inner = arguments
    axis = axis_of(axis, len(value.shape))
    parts = resolved(importer, [value.shape[axis]], list(inner.items))
    return reshaped(importer, value, [*value.shape[:axis], *parts, *value.shape[axis + 1 :]])


def resolved(importer: Importer, shape: Sequence[Size], wanted: list[Size]) -> list[Size]:
    """Return the wanted shape, its -1 replaced by the size that follows from the others."""
    open_axes = [i for i, size in enumerate(wanted) if isinstance(size, int) and size == -1]
    total = sizes.product(shape)
    if open_axes:
        others = sizes.product(size for i, size in enumerate(wanted) if i not in open_axes)
        wanted[open_axes[0]] = sizes.floor_div(total, others)
    if sizes.equal(sizes.product(wanted), total) is False:
        raise importer.builder.unsupported(f"a reshape of {list(shape)} to {wanted}")
    return wanted


def reshaped(importer: Importer, value: Tensor, shape: Sequence[Size]) -> Tensor:
    """Return the elements in the order of their indices, in another shape."""
    if isinstance(value, Full):
        return full_like(value, shape)
    view = importer.builder.materialise(value)
    strides = _strides_of_reshape(view, shape)
    if strides is not None:
        return view.with_shape(shape, strides)
    made = importer.builder.contiguous(view)
    importer.places.same(view, made)
    return made.with_shape(shape, contiguous_strides(shape))


def _strides_of_reshape(view: View, shape: Sequence[Size]) -> list[Size] | None:
    """Return the strides with which the same memory has another shape, or None."""
    if is_contiguous(view):
        return list(contiguous_strides(shape))
    # Groups of old and of new axes with the same number of elements, from the last to the first.
    strides: list[Size] = [0] * len(shape)
    old = [(n, s) for n, s in zip(view.shape, view.strides, strict=True) if n != 1]
    i, j = len(old) - 1, len(shape) - 1
    while i >= 0:
        size, step = old[i]
        base = step
        i -= 1
        made: Size = 1
        if j < 0:
            return None
        while sizes.equal(made, size) is not True:
            if j >= 0 and _divides(made * shape[j], size):
                strides[j] = sizes.simple(base * made)
                made = sizes.simple(made * shape[j])
                j -= 1
            elif i >= 0 and sizes.simple(old[i][1] - size * base) == 0:
                size = sizes.simple(size * old[i][0])
                i -= 1
            else:
                return None
    while j >= 0:
        if shape[j] != 1:
            return None
        j -= 1
    return strides


def _divides(part: Size, whole: Size) -> bool:
    return bool(part != 0 and sizes.modulo(whole, part) == 0)


@operator("aten::contiguous")
def contiguous(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value = arguments[0]
    if isinstance(value, Full | OneHot | Concat):
        return value
    made = importer.builder.contiguous(value)
    importer.places.same(value, made)
    return made


@operator(
    "aten::detach",
    "aten::alias",
    "aten::dropout",
    "aten::feature_dropout",
    "aten::lift_fresh",
    "aten::positive",
)
def same(importer: Importer, node: Any, arguments: list[Any]) -> object:
    if node.kind().endswith("dropout") and importer.truth(arguments[2]) is not False:
        raise importer.builder.unsupported("dropout in training mode")
    return arguments[0]


@operator("aten::clone")
def clone(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value = arguments[0]
    if not importer.mutates or not isinstance(value, View):
        return value
    out = importer.builder.temporary(value.dtype, value.shape)
    importer.builder.copy(value, out)
    return out


# --- lists of views ---


@operator("aten::unbind")
def unbind(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, axis = arguments
    axis = axis_of(axis, len(value.shape))
    count = value.shape[axis]
    view = importer.builder.materialise(value)
    if isinstance(count, int):
        return ListValue([select(view, axis, i) for i in range(count)], importer.scope)
    axes = [axis, *(a for a in range(len(view.shape)) if a != axis)]
    moved = permuted(view, axes)
    assert isinstance(moved, View)
    return ListValue([StackedList(moved, count)], importer.scope)


@operator("aten::chunk")
def chunk(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, count, axis = arguments
    axis = axis_of(axis, len(value.shape))
    size = value.shape[axis]
    if not isinstance(size, int):
        raise importer.builder.unsupported(
            "chunks of an axis whose size is known only when the code runs"
        )
    return split_into(importer, value, axis, _even(size, -(-size // count)))


@operator("aten::split", "aten::split_with_sizes")
def split(importer: Importer, node: Any, arguments: list[Any]) -> object:
    value, given, axis = arguments
    axis = axis_of(axis, len(value.shape))
    if isinstance(given, ListValue):
        return split_into(importer, value, axis, list(given.items))
    size = value.shape[axis]
    if not isinstance(size, int):
        raise importer.builder.unsupported(
            "parts of an axis whose size is known only when the code runs"
        )
    return split_into(importer, value, axis, _even(size, given))


def _even(size: int, step: int) -> list[int]:
    return [min(step, size - start) for start in range(0, size, step)] or [0]


def split_into(importer: Importer, value: Tensor, axis: int, lengths: Sequence[int]) -> ListValue:
    """Return the list of parts of one axis."""
    view = importer.builder.materialise(value)
    parts, start = [], 0
    for length in lengths:
        parts.append(narrow(view, axis, start, length))
        start += length
    return ListValue(parts, importer.scope)


@operator("aten::stack")
def stack(importer: Importer, node: Any, arguments: list[Any]) -> object:
    listed, axis = arguments
    made = stack_of(listed)
    if made is not None:
        rank = len(made.stacked.shape)
        axis = axis_of(axis, rank)
        view = made.stacked
        if made.reversed:
            last = select(view, 0, sizes.simple(made.count - 1))
            strides = [sizes.simple(-view.strides[0]), *view.strides[1:]]
            view = View(view.storage, last.offset, view.shape, tuple(strides))
        order = list(range(1, rank))
        order.insert(axis, 0)
        return permuted(view, order)
    items = listed.items
    axis = axis_of(axis, len(items[0].shape) + 1)
    if len(items) == 1:
        return unsqueeze(importer, node, [items[0], axis])
    shape = [*items[0].shape[:axis], len(items), *items[0].shape[axis:]]
    importer.builder.hint = importer.builder.hint or "stacked"
    out = importer.builder.temporary(items[0].dtype, shape)
    for i, item in enumerate(items):
        importer.builder.copy(item, select(out, axis, i))
    return out


@operator("aten::cat")
def cat(importer: Importer, node: Any, arguments: list[Any]) -> object:
    listed, axis = arguments
    made = stack_of(listed)
    if made is not None:
        if made.reversed:
            raise importer.builder.unsupported("cat of a reversed list of unknown length")
        view = made.stacked
        axis = axis_of(axis, len(view.shape) - 1)
        order = list(range(1, len(view.shape)))
        order.insert(axis, 0)
        moved = permuted(view, order)
        shape = list(moved.shape)
        shape[axis : axis + 2] = [sizes.product(shape[axis : axis + 2])]
        return reshaped(importer, moved, shape)
    items = [item for item in listed.items if tuple(item.shape) != (0,)]
    if len(items) == 1:
        return items[0]
    axis = axis_of(axis, len(items[0].shape))
    total = sizes.simple(sum(item.shape[axis] for item in items))
    shape = [*items[0].shape]
    shape[axis] = total
    parts: list[Any] = []
    for item in items:
        parts += (
            item.parts
            if isinstance(item, Concat) and item.axis == axis
            else [importer.builder.materialise(item) if isinstance(item, Concat) else item]
        )
    kinds = {part.dtype for part in parts}
    if len(kinds) != 1:
        raise importer.builder.unsupported(f"cat of dtypes {', '.join(sorted(kinds))}")
    value = Concat(tuple(parts), axis, parts[0].dtype, tuple(shape))
    return importer.builder.materialise(value) if importer.mutates else value

"""How views lie in memory: strides, the order of axes, and views of parts."""

from __future__ import annotations

from collections.abc import Sequence

from torchship.native.ir import sizes
from torchship.native.ir.program import Storage, View
from torchship.native.ir.sizes import Size, product, simple


def element_count(shape: Sequence[Size]) -> Size:
    """Return the number of elements of a shape."""
    return product(shape)


def contiguous_strides(shape: Sequence[Size]) -> tuple[Size, ...]:
    """Return the strides of a tensor whose last axis varies fastest."""
    strides: list[Size] = []
    step: Size = 1
    for size in reversed(shape):
        strides.append(step)
        step = simple(step * size)
    return tuple(reversed(strides))


def is_contiguous(view: View) -> bool:
    """Whether the elements lie side by side in the order of their indices."""
    step: Size = 1
    for size, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if size != 1 and simple(stride - step) != 0:
            return False
        step = simple(step * size)
    return True


def laid_out(storage: Storage, shape: Sequence[Size], order: Sequence[int] | None = None) -> View:
    """Return a whole storage as a view of a shape, its axes in memory in the given order."""
    order = list(order) if order is not None else list(range(len(shape)))
    inner = contiguous_strides([shape[axis] for axis in order])
    strides: list[Size] = [0] * len(shape)
    for axis, stride in zip(order, inner, strict=True):
        strides[axis] = stride
    return View(storage, 0, tuple(shape), tuple(strides))


def dense_order(view: View) -> list[int] | None:
    """Return the axes from the outermost in memory to the innermost; None if there is a gap."""
    rest = [axis for axis, size in enumerate(view.shape) if size != 1]
    ones = [axis for axis, size in enumerate(view.shape) if size == 1]
    order: list[int] = []
    step: Size = 1
    while rest:
        inner = next((a for a in rest if sizes.simple(view.strides[a] - step) == 0), None)
        if inner is None:
            return None
        order.insert(0, inner)
        rest.remove(inner)
        step = sizes.simple(step * view.shape[inner])
    return ones + order


def narrow(view: View, axis: int, start: Size, length: Size, step: int = 1) -> View:
    """Return the view of `length` indices of one axis from `start`."""
    shape, strides = list(view.shape), list(view.strides)
    offset = sizes.simple(view.offset + start * strides[axis])
    shape[axis] = length
    strides[axis] = sizes.simple(strides[axis] * step)
    return View(view.storage, offset, tuple(shape), tuple(strides))


def select(view: View, axis: int, index: Size) -> View:
    """Return the view without one axis, at one of its indices."""
    offset = sizes.simple(view.offset + index * view.strides[axis])
    shape, strides = list(view.shape), list(view.strides)
    del shape[axis], strides[axis]
    return View(view.storage, offset, tuple(shape), tuple(strides))


def as_matrix(view: View) -> View | None:
    """Return [..., k] as [rows, k] without a copy, if the rows have one stride."""
    outer = [(n, s) for n, s in zip(view.shape[:-1], view.strides[:-1], strict=True) if n != 1]
    if not outer:
        return view.with_shape([1, view.shape[-1]], [0, 1])
    size, stride = outer[-1]
    for above, above_stride in reversed(outer[:-1]):
        if sizes.simple(above_stride - size * stride) != 0:
            return None
        size = sizes.simple(size * above)
    return view.with_shape([size, view.shape[-1]], [stride, 1])

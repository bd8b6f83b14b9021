"""Builds the statements of a method: storages, elementwise operations, and what follows from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sympy
import torch

from torchship.native.errors import UnsupportedError
from torchship.native.importing.values import Concat, Full, OneHot, Tensor
from torchship.native.ir import sizes
from torchship.native.ir.program import (
    ITEM_SIZES,
    Call,
    Elementwise,
    Iota,
    Operand,
    Scalar,
    Statement,
    Storage,
    View,
    contiguous_strides,
    element_count,
    is_contiguous,
)
from torchship.native.ir.sizes import Size

TORCH = {
    "float32": torch.float32, "float64": torch.float64, "int64": torch.int64,
    "int32": torch.int32, "int16": torch.int16, "int8": torch.int8, "uint8": torch.uint8,
    "bool": torch.bool,
}  # fmt: skip
NAMES = {value: key for key, value in TORCH.items()}


def weight_value(view: View) -> torch.Tensor:
    """Return the constant that a view of a weight shows."""
    assert view.storage.value is not None
    shape, strides = [int(n) for n in view.shape], [int(n) for n in view.strides]
    return torch.as_strided(view.storage.value, shape, strides, int(view.offset))


def identifier(wish: str, taken: set[str]) -> str:
    """Return a C identifier like `wish` that is not taken, and take it."""
    base = re.sub(r"\W+", "_", wish).strip("_") or "t"
    if base[0].isdigit():
        base = f"t{base}"
    if base in C_WORDS:
        base += "_"
    name, count = base, 2
    while name in taken:
        name, count = f"{base}_{count}", count + 1
    taken.add(name)
    return name


class Weights:
    """The constants of all methods, by the path in the module or by what was computed of them."""

    def __init__(self) -> None:
        self.storages: list[Storage] = []
        self._names: set[str] = set()
        self._packed: dict[tuple[object, ...], View] = {}

    def add(self, name: str, tensor: torch.Tensor) -> View:
        """Return a tensor as a weight; the same tensor under the same name is the same weight."""
        value = tensor.detach().cpu().contiguous()
        shape = tuple(value.shape)
        for known in self.storages:
            if known.wish == name and known.value is not None and known.dtype == NAMES[value.dtype]:
                if known.value.numel() == value.numel() and known.value.equal(value.reshape(-1)):
                    return View(known, 0, shape, contiguous_strides(shape))
        storage = Storage(
            identifier(name, self._names), NAMES[value.dtype], value.numel(), "weight",
            value.reshape(-1).clone(), name,
        )  # fmt: skip
        self.storages.append(storage)
        return View(storage, 0, shape, contiguous_strides(shape))

    def packed(self, view: View, form: str, pack: Callable[[torch.Tensor], torch.Tensor]) -> View:
        """Return `pack(view)` as a weight, made once."""
        key = (view.storage.name, view.offset, view.shape, view.strides, form)
        if key not in self._packed:
            self._packed[key] = self.add(f"{view.storage.name}_{form}", pack(weight_value(view)))
        return self._packed[key]


class Builder:
    """The statements of one method while they are made."""

    def __init__(self, weights: Weights) -> None:
        self.block: list[Statement] = []
        self.widened: dict[Storage, View] = {}
        """Integers that are a copy of narrower ones, and those."""
        self.temporaries: list[Storage] = []
        self.weights = weights
        self.where = ""
        self.note = ""
        self.hint = ""
        """The name that the model gives to what is computed now."""
        self._names: set[str] = set(LOCALS)

    # --- names and blocks ---

    def fresh(self, wish: str) -> str:
        """Return a C identifier that is not in use, like `wish`."""
        return identifier(re.sub(r"_\d+$", "", wish), self._names)

    @contextmanager
    def inside(self, block: list[Statement]) -> Iterator[None]:
        """Let statements go into a block."""
        outer, self.block = self.block, block
        try:
            yield
        finally:
            self.block = outer

    def add(self, statement: Statement) -> None:
        """Append a statement, with the source line that is compiled now."""
        statement.where, statement.note = statement.where or self.where, statement.note or self.note
        self.block.append(statement)

    def unsupported(self, what: str) -> UnsupportedError:
        """Return the error that refuses something at the current source line."""
        return UnsupportedError(f"{self.where or 'the graph'}: {what}")

    # --- storages ---

    def temporary(
        self, dtype: str, shape: Sequence[Size], order: Sequence[int] | None = None
    ) -> View:
        """Return a new tensor in the workspace; `order` lists its axes, the outermost first."""
        if dtype not in ITEM_SIZES:
            raise self.unsupported(f"a tensor of dtype {dtype}")
        storage = Storage(self.fresh(self.hint or "t"), dtype, element_count(shape), "temporary")
        self.temporaries.append(storage)
        return laid_out(storage, shape, order)

    def weight(self, name: str, tensor: torch.Tensor) -> View:
        """Return a constant tensor as a weight."""
        if tensor.dtype not in NAMES:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise self.unsupported(f"weight '{name}' of dtype {dtype}")
        return self.weights.add(name, tensor)

    def packed(self, view: View, form: str, pack: Callable[[torch.Tensor], torch.Tensor]) -> View:
        """Return a weight in the order of a kernel, made once for all that use it."""
        return self.weights.packed(view, form, pack)

    # --- tensors ---

    def materialise(self, value: Tensor) -> View:
        """Return the tensor as a view of memory; compute it if it is in none yet."""
        if isinstance(value, View):
            return value
        if isinstance(value, Full):
            out = self.temporary(value.dtype, value.shape)
            self.add(Elementwise(out, "copy", (operand_of(value),), compute=value.dtype))
            return out
        if isinstance(value, OneHot):
            order = [axis for axis in range(len(value.shape)) if axis != value.axis] + [value.axis]
            out = self.temporary(value.dtype, value.shape, order)
            shape, strides = list(value.index.shape), list(value.index.strides)
            shape.insert(value.axis, value.classes)
            strides.insert(value.axis, 0)
            index = value.index.with_shape(shape, strides)
            self.add(Elementwise(out, "eq", (index, Iota(value.axis)), compute="int32"))
            return out
        parts = [part for part in value.parts if isinstance(part, View)]
        out = self.temporary(value.dtype, value.shape, dense_order(parts[0]) if parts else None)
        position: Size = 0
        for part in value.parts:
            size = part.shape[value.axis]
            place = narrow(out, value.axis, position, size)
            self.copy(part, place)
            position = sizes.simple(position + size)
        return out

    def narrowest(self, view: View) -> View:
        """Return the narrower integers that a view of integers is a copy of, or the view."""
        source = self.widened.get(view.storage)
        whole = laid_out(view.storage, view.shape)
        return source if source is not None and view.same_elements(whole) else view

    def copy(self, value: Tensor, place: View) -> None:
        """Store a tensor in a place of the same shape, converted to its dtype."""
        if isinstance(value, OneHot | Concat):
            value = self.materialise(value)
        operand = value.expanded(place.shape) if isinstance(value, View) else operand_of(value)
        self.add(Elementwise(place, "copy", (operand,), compute=value.dtype))

    def contiguous(self, value: Tensor) -> View:
        """Return the tensor in memory, its elements side by side in the order of their indices."""
        view = self.materialise(value)
        if is_contiguous(view):
            return view
        out = self.temporary(view.dtype, view.shape)
        self.copy(view, out)
        return out

    def elementwise(
        self, operation: str, values: Sequence[object], dtype: str, compute: str | None = None
    ) -> Any:
        """Return operation(values), broadcast, as a new tensor of `dtype`.

        The parts of a concatenation stay apart if it is the only tensor.
        """
        parts = [value for value in values if isinstance(value, Concat)]
        if len(parts) == 1 and not any(isinstance(v, View | OneHot | Full) for v in values):
            return self._of_parts(operation, values, parts[0], dtype, compute)
        operands: list[Operand | Tensor] = []
        for value in values:
            operands.append(
                self.materialise(value) if isinstance(value, OneHot | Concat) else value
            )  # type: ignore[arg-type]
        shape = self.broadcast([v.shape for v in operands if isinstance(v, View | Full)])
        views = [v for v in operands if isinstance(v, View)]
        full = [v for v in views if tuple(v.shape) == tuple(shape)]
        out = self.temporary(dtype, shape, dense_order(full[0]) if full else None)
        read = tuple(v.expanded(shape) if isinstance(v, View) else operand_of(v) for v in operands)
        self.add(Elementwise(out, operation, read, compute=compute or dtype))
        return out

    def _of_parts(
        self,
        operation: str,
        values: Sequence[object],
        whole: Concat,
        dtype: str,
        compute: str | None,
    ) -> Concat:
        parts = tuple(
            self.elementwise(operation, [p if v is whole else v for v in values], dtype, compute)
            for p in whole.parts
        )
        return Concat(parts, whole.axis, dtype, whole.shape)

    def broadcast(self, shapes: Sequence[Sequence[Size]]) -> tuple[Size, ...]:
        """Return the shape that all shapes broadcast to.

        Raises:
            UnsupportedError: two sizes differ, or may differ when the code runs.
        """
        rank = max((len(shape) for shape in shapes), default=0)
        result: list[Size] = []
        for axis in range(-rank, 0):
            size: Size = 1
            for shape in shapes:
                if len(shape) < -axis or shape[axis] == 1:
                    continue
                if size == 1:
                    size = shape[axis]
                elif sizes.equal(size, shape[axis]) is not True:
                    raise self.unsupported(
                        f"shapes {[tuple(map(str, s)) for s in shapes]} do not broadcast for sure"
                    )
            result.append(size)
        return tuple(result)

    def call(
        self,
        kernel: str,
        outputs: Sequence[View],
        inputs: Sequence[View],
        /,
        **attributes: object,
    ) -> None:
        """Add a kernel."""
        self.add(Call(kernel, tuple(outputs), tuple(inputs), attributes))


def operand_of(value: object) -> Operand:
    """Return a number, known now or later, as an operand."""
    if isinstance(value, Full):
        value = value.value
    if isinstance(value, sympy.Expr):
        return Scalar("int", sizes.c_text(value))
    if isinstance(value, bool | int | float | Scalar | Iota):
        return value
    raise TypeError(f"no operand: {value!r}")


def laid_out(storage: Storage, shape: Sequence[Size], order: Sequence[int] | None = None) -> View:
    """Return a whole storage as a view of a shape, its axes in memory in the given order."""
    order = list(order) if order is not None else list(range(len(shape)))
    inner = contiguous_strides([shape[axis] for axis in order])
    strides: list[Size] = [0] * len(shape)
    for axis, stride in zip(order, inner, strict=True):
        strides[axis] = stride
    return View(storage, 0, tuple(shape), tuple(strides))


def dense_order(view: View) -> list[int] | None:
    """Return the axes from the outermost in memory to the innermost, if there is no gap; or None."""
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


def map_parts(
    value: Tensor, change: Callable[[View | OneHot | Full], View | OneHot | Full]
) -> Tensor:
    """Apply a change that keeps the axes to a tensor or to the parts of a concatenation."""
    if isinstance(value, Concat):
        parts = tuple(change(part) for part in value.parts)
        return Concat(parts, value.axis, parts[0].dtype, value.shape)
    return change(value)


C_WORDS = {
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum",
    "extern", "float", "for", "goto", "if", "inline", "int", "long", "register", "restrict",
    "return", "short", "signed", "sizeof", "static", "struct", "switch", "typedef", "union",
    "unsigned", "void", "volatile", "while", "class", "new", "delete", "this", "template", "bool",
    "true", "false", "operator", "private", "public", "protected", "virtual", "try", "catch",
    "throw", "namespace", "using", "and", "or", "not", "xor", "asm", "export", "friend", "typeid",
    "typename", "mutable", "explicit", "NULL",
}  # fmt: skip

LOCALS = {
    "w", "in", "out", "first", "rows", "batch", "workspace", "message", "j", "rest", "offsets",
    "segments", "places", "taps", "at", "chosen", "total", "best", "value", "sum", "row", "count",
    "image", "x_", "y", "x", "c", "class", "wrong", "ty", "tx", "ky", "kx", "exp", "log", "sin", "cos", "tanh", "erf",
    "floor", "ceil", "trunc", "rint", "fma", "sqrt", "fabs", "memcpy", "main",
} | {f"{letter}{number}" for letter in "ikb" for number in range(10)}  # fmt: skip
"""Names of the generated functions themselves, which no tensor or variable may have."""

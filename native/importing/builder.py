"""Builds the statements of a method: storages, elementwise operations, copies."""

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
from torchship.native.ir.dtypes import ITEM_SIZES, NAMES
from torchship.native.ir.layout import (
    dense_order,
    element_count,
    is_contiguous,
    laid_out,
    narrow,
)
from torchship.native.ir.names import LOCALS, identifier
from torchship.native.ir.program import (
    Call,
    Elementwise,
    Iota,
    Operand,
    Scalar,
    Statement,
    Storage,
    View,
)
from torchship.native.ir.sizes import Size
from torchship.native.ir.weights import Weights


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
        self.order: dict[Statement, int] = {}
        """When each statement was made."""

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
        self.order.setdefault(statement, len(self.order))
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

    def copy(self, value: Tensor, place: View) -> Statement:
        """Store a tensor in a place of the same shape, converted to its dtype."""
        if isinstance(value, OneHot | Concat):
            value = self.materialise(value)
        operand = value.expanded(place.shape) if isinstance(value, View) else operand_of(value)
        statement = Elementwise(place, "copy", (operand,), compute=value.dtype)
        self.add(statement)
        return statement

    def copied(self, view: View) -> View:
        """Return a copy in memory of its own."""
        out = self.temporary(view.dtype, view.shape)
        self.copy(view, out)
        return out

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
        operands = [
            self.materialise(value) if isinstance(value, OneHot | Concat) else value
            for value in values
        ]
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

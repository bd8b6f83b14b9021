"""From the outputs of calls to the columns of a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import pyarrow as pa
import torch

from torchship.score.casts import Numbers
from torchship.score.methods import Output
from torchship.score.rows import Group
from torchship.script.format.nodes import Dimension
from torchship.script.format.tree import Flat


def column_type(output: Output) -> pa.DataType:
    """Return the type of an output's column: a number, or nested lists of numbers.

    float16 and bfloat16 become float32, which holds each of their values, because few readers of
    tables know them.
    """
    return _nested(_number_type(output.dtype), output.row_shape)


def _number_type(dtype: str) -> pa.DataType:
    name = "float32" if dtype in ("float16", "bfloat16") else dtype
    return pa.from_numpy_dtype(np.dtype(name))


def _nested(kind: pa.DataType, shape: Sequence[Dimension]) -> pa.DataType:
    for size in reversed(shape):
        kind = pa.list_(kind, size) if isinstance(size, int) and size else pa.list_(kind)
    return kind


@dataclass
class Collected:
    """The values of one output in the rows of a chunk, in the order of the calls."""

    output: Output
    places: list[Numbers] = field(default_factory=list)
    values: list[Numbers] = field(default_factory=list)
    """Of each call: [rows, ...]."""

    def add(self, group: Group, outputs: Flat) -> None:
        """Take the output of a call; one that it does not have is null in its rows."""
        tensor = outputs.get(self.output.name)
        if tensor is None:
            return
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        values = tensor.numpy()
        if self.output.axis is not None:
            values = np.moveaxis(values, self.output.axis, 0)
        if not group.batched:
            # One row: its value is the whole output, without a batch if there is one.
            values = values if self.output.axis is not None else values[None]
        self.places.append(group.places)
        self.values.append(values)

    def column(self, places: Numbers) -> pa.Array:
        """Return the values of the rows at these places, which are all that were scored."""
        kind = column_type(self.output)
        found = np.concatenate([np.zeros(0, dtype=np.int64), *self.places])
        shapes = {values.shape[1:] for values in self.values}
        if len(shapes) == 1 and self.output.fixed and len(found) == len(places):
            values = np.concatenate(self.values)
            if not np.array_equal(found, places):  # calls of several groups, or a row that failed
                values = values[np.argsort(found)]
            return _rectangular(values, kind)
        cells = [cell for values in self.values for cell in values]
        known = dict(zip(found.tolist(), cells, strict=True))
        return _ragged([known.get(int(place)) for place in places], kind)


def _rectangular(values: Numbers, kind: pa.DataType) -> pa.Array:
    """Return rows of one shape, all of whose sizes are in the column's type."""
    if 0 in values.shape[1:]:
        return pa.array(values.tolist(), kind)
    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _ragged(cells: Sequence[Numbers | None], kind: pa.DataType) -> pa.Array:
    """Return rows of any shapes as nested lists; None is null."""
    if not pa.types.is_nested(kind):
        return pa.array([None if cell is None else cell.item() for cell in cells], kind)
    present = [cell for cell in cells if cell is not None]
    levels = 0
    inner = kind
    while pa.types.is_nested(inner):
        inner, levels = inner.value_type, levels + 1
    flat = [cell.reshape(-1) for cell in present]
    values = np.concatenate(flat) if flat else np.zeros(0)
    array = pa.array(values, inner)
    for level in reversed(range(1, levels)):
        lengths = [
            np.full(prod(cell.shape[:level]), cell.shape[level], dtype=np.int64) for cell in present
        ]
        counts = np.concatenate(lengths) if lengths else np.zeros(0, dtype=np.int64)
        array = pa.ListArray.from_arrays(_offsets(counts), array)
    counts = np.array([0 if cell is None else len(cell) for cell in cells], dtype=np.int64)
    missing = pa.array([cell is None for cell in cells], pa.bool_())
    array = pa.ListArray.from_arrays(_offsets(counts), array, mask=missing)
    return array if array.type == kind else array.cast(kind)


def _offsets(counts: Numbers) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))

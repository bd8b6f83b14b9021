"""The cells of one column as numbers, whatever the table writes a tensor as."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from torchship.score.casts import Numbers, cast
from torchship.score.errors import TableError
from torchship.script.format.nodes import Dimension, shape_text

LONGEST = 60  # characters of a cell that a message shows


@dataclass
class Cells:
    """The values of one input in a number of rows.

    Bad rows have a reason, and values that mean nothing.
    """

    values: Numbers
    """The elements of all rows, one row after the other."""
    shapes: Numbers
    """int64[rows, dimensions]: the shape of each row's value."""
    bad: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        sizes = self.shapes.prod(axis=1, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])

    def rows(self, places: Numbers) -> Numbers:
        """Return the values of rows of one shape: [rows, ...]."""
        shape = tuple(self.shapes[places[0]])
        size = int(np.prod(shape, dtype=np.int64))
        count = len(self.shapes)
        if len(places) == count and len(self.values) == count * size:
            return self.values.reshape(count, *shape)  # every row, in order
        parts = [self.values[self._starts[p] : self._starts[p] + size] for p in places]
        return np.concatenate(parts).reshape(len(places), *shape)


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column of the type holds a list in each row."""
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of the type holds text; a CSV's columns are bytes until checked."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def is_number(kind: pa.DataType) -> bool:
    """Return whether a column of the type holds a number in each row."""
    return bool(
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
    )


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column without dictionary and extension."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    return kind


def plain_column(column: pa.Array) -> pa.Array:
    """Return a column without dictionary and extension."""
    if pa.types.is_dictionary(column.type):
        return plain_column(column.dictionary_decode())
    if isinstance(column.type, pa.BaseExtensionType):
        return plain_column(column.storage)
    return column


def read_cells(column: pa.Array, dtype: str, shape: Sequence[Dimension]) -> Cells:
    """Return the numbers of a column, cast to a dtype, in rows of a shape.

    Lists may be nested as deep as the shape, or flat in row-major order if all sizes are fixed.
    Text is a number, or a JSON list.

    Args:
        column: numbers, lists of them or text; `check_type` has accepted its type.
        dtype: the manifest's name.
        shape: of one row, without the batch.
    """
    if isinstance(column.type, pa.FixedShapeTensorType):
        return _tensors(column, dtype, shape)
    column = plain_column(column)
    if is_text(column.type):
        return _of_text(column, dtype, shape)
    numbers, lengths, bad = _unnest(column)
    values, unfit = _numbers(numbers, dtype)
    rows = len(column)
    owners = _owners(rows, lengths)
    for place in np.flatnonzero(unfit):
        bad.setdefault(int(owners[place]), _unfit_text(numbers[int(place)].as_py(), dtype))
    return _shaped(values, lengths, rows, bad, dtype, shape)


def check_type(kind: pa.DataType, dtype: str, shape: Sequence[Dimension]) -> None:
    """Refuse a column whose type no row's value of the shape can come from.

    Raises:
        TableError: it is so; the message says what was expected.
    """
    wanted = f"{dtype}{shape_text(tuple(shape))}" if shape else f"a number that {dtype} can hold"
    if isinstance(kind, pa.FixedShapeTensorType):
        straight = kind.permutation is None or list(kind.permutation) == list(range(len(shape)))
        fits = len(kind.shape) == len(shape) and all(
            not isinstance(size, int) or size == actual
            for size, actual in zip(shape, kind.shape, strict=True)
        )
        if not fits or not straight:
            raise TableError(f"has tensors of the shape {list(kind.shape)}: expected {wanted}")
    inner, depth = plain_type(kind), 0
    if is_text(inner):
        return
    while is_list(inner):
        inner, depth = plain_type(inner.value_type), depth + 1
    fixed = all(isinstance(size, int) for size in shape)
    flat = depth == 1 and fixed
    single = depth == 0 and fixed and all(size == 1 for size in shape)
    if not is_number(inner) or not (depth == len(shape) or (shape and flat) or single):
        raise TableError(f"has the type {kind}: expected {wanted}")


def _tensors(column: pa.Array, dtype: str, shape: Sequence[Dimension]) -> Cells:
    """Read a column of the tensors of one shape, which Arrow stores as flat lists."""
    kind = column.type
    cells = read_cells(column.storage, dtype, [int(np.prod(kind.shape, dtype=np.int64))])
    rows = len(column)
    shapes = np.tile(np.array(kind.shape, dtype=np.int64), (rows, 1))
    shapes[cells.shapes[:, 0] == 0, :] = 0  # a null has no elements
    return Cells(cells.values, shapes, cells.bad)


def _unnest(column: pa.Array) -> tuple[pa.Array, list[Numbers], dict[int, str]]:
    """Return the innermost values, the lengths of the lists of each level, and bad rows."""
    bad: dict[int, str] = {}
    owners = np.arange(len(column))
    levels: list[Numbers] = []
    while True:
        if column.null_count:
            for place in np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False)):
                what = "it is null" if not levels else "it has a null in it"
                bad.setdefault(int(owners[place]), what)
        if not is_list(column.type):
            return column, levels, bad
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        counts = lengths.to_numpy(zero_copy_only=False).astype(np.int64)
        column = plain_column(pc.list_flatten(column))
        owners = np.repeat(owners, counts)
        levels.append(counts)


def _owners(rows: int, levels: Sequence[Numbers]) -> Numbers:
    """Return the row of each innermost value."""
    owners = np.arange(rows)
    for counts in levels:
        owners = np.repeat(owners, counts)
    return owners


def _numbers(column: pa.Array, dtype: str) -> tuple[Numbers, Numbers]:
    """Return a column of numbers in a dtype, and which cannot be cast; nulls are 0."""
    if pa.types.is_decimal(column.type):
        whole = dtype.startswith(("int", "uint", "bool"))
        column, lost = cast_each(column, pa.int64() if whole else pa.float64())
    else:
        lost = np.zeros(len(column), dtype=bool)
    if pa.types.is_float16(column.type):  # Arrow has few functions for it
        column = pc.cast(column, pa.float32())
    if column.null_count:
        column = pc.fill_null(column, pa.scalar(0, pa.int8()).cast(column.type))
    values, unfit = cast(column.to_numpy(zero_copy_only=False), dtype)
    return values, unfit | lost


def cast_each(column: pa.Array, kind: pa.DataType) -> tuple[pa.Array, Numbers]:
    """Cast what can be cast; the rest is null, and in the mask.

    Halves that fail are cast in halves again, so that one bad cell among n costs log n casts.
    """
    unfit = np.zeros(len(column), dtype=bool)
    parts: list[pa.Array] = []
    pending = [(0, len(column))]
    while pending:
        start, stop = pending.pop()
        try:
            parts.append(pc.cast(column[start:stop], kind))
        except pa.ArrowInvalid:
            if stop - start == 1:
                unfit[start] = True
                parts.append(pa.nulls(1, kind))
            else:
                middle = (start + stop) // 2
                pending += [(middle, stop), (start, middle)]
    return pa.concat_arrays(parts) if parts else pa.nulls(0, kind), unfit


def read_text(column: pa.Array) -> tuple[list[str | None], dict[int, str]]:
    """Return the text of each row, and the rows that have none."""
    texts, unfit = cast_each(plain_column(column), pa.large_string())
    values: list[str | None] = texts.to_pylist()
    bad = {int(place): "it is not UTF-8" for place in np.flatnonzero(unfit)}
    for place, value in enumerate(values):
        if value is None:
            bad.setdefault(place, "it is null")
    return values, bad


def _of_text(column: pa.Array, dtype: str, shape: Sequence[Dimension]) -> Cells:
    rows = len(column)
    if shape:
        texts, bad = read_text(column)
        return _of_json(texts, bad, dtype, shape)
    texts_column, not_text = cast_each(column, pa.large_string())
    trimmed = pc.utf8_trim_whitespace(texts_column)
    if dtype.startswith(("int", "uint")):
        numbers, unread = cast_each(trimmed, pa.uint64() if dtype == "uint64" else pa.int64())
        values, unfit = _numbers(numbers, dtype)
        floats = np.flatnonzero(unread)  # 3.0, as pandas writes integers beside missing ones
        if len(floats):
            parsed, unread_too = cast_each(trimmed.take(pa.array(floats)), pa.float64())
            as_floats, unfit_too = _numbers(parsed, dtype)
            # Beyond 2^53 a float may be another integer than its text said.
            unfit_too |= np.abs(pc.fill_null(parsed, 0.0).to_numpy()) >= 2.0**53
            values = values.copy()
            values[floats] = as_floats
            unfit[floats] = unfit_too
            unread[floats] = unread_too
    else:
        numbers, unread = cast_each(trimmed, pa.bool_() if dtype == "bool" else pa.float64())
        values, unfit = _numbers(numbers, dtype)
    bad = {}
    empty = column.is_null().to_numpy(zero_copy_only=False)
    wrong = empty | not_text | unread | unfit
    too_large = _infinite(values, trimmed) if values.dtype.kind == "f" else wrong
    for place in np.flatnonzero(wrong | too_large):
        number = int(place)
        if empty[number]:
            bad[number] = "it is empty"
        elif not_text[number]:
            bad[number] = "it is not UTF-8"
        else:
            bad[number] = _unfit_text(trimmed[number].as_py(), dtype)
    return Cells(values, np.zeros((rows, 0), dtype=np.int64), bad)


def _infinite(values: Numbers, texts: pa.Array) -> Numbers:
    """Return which numbers are infinite although their text is not: `1e999`."""
    infinite = np.isinf(values)
    for place in np.flatnonzero(infinite):
        infinite[place] = "inf" not in (texts[int(place)].as_py() or "").lower()
    return infinite


def _of_json(
    texts: Sequence[str | None], bad: dict[int, str], dtype: str, shape: Sequence[Dimension]
) -> Cells:
    """Read a JSON list of each row."""
    found: list[Numbers] = []
    shapes = np.zeros((len(texts), len(shape)), dtype=np.int64)
    for row, text in enumerate(texts):
        if row in bad or text is None:
            continue
        if not text.strip():
            bad[row] = "it is empty"
            continue
        try:
            value = _json_numbers(text, dtype)
        except ValueError as error:
            bad[row] = f"{error}: expected {dtype}{shape_text(tuple(shape))}"
            continue
        value = _reshaped(value, shape)
        if not _fits(value.shape, shape):
            bad[row] = _shape_text(value.shape, dtype, shape)
            continue
        numbers, unfit = cast(value, dtype)
        if unfit.any():
            bad[row] = _unfit_text(value[unfit].flat[0].item(), dtype)
            continue
        shapes[row] = numbers.shape
        found.append(numbers.reshape(-1))
    empty = cast(np.zeros(0), dtype)[0]
    return Cells(np.concatenate([empty, *found]), shapes, bad)


def _json_numbers(text: str, dtype: str) -> Numbers:
    whole = dtype.startswith(("int", "uint"))
    try:
        # A whole number that is written as a float stays exact beside large integers.
        value = json.loads(text, parse_float=_whole if whole else float)
        numbers = np.asarray(value)
    except (ValueError, RecursionError):
        raise ValueError(f"{shown(text)} is no JSON list of numbers of one shape") from None
    if numbers.size == 0 and numbers.dtype.kind == "f":
        return numbers
    if numbers.dtype.kind not in "biuf":
        raise ValueError(f"{shown(text)} is no JSON list of numbers of one shape")
    return numbers


def _whole(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


def _reshaped(value: Numbers, shape: Sequence[Dimension]) -> Numbers:
    """Return a flat list, or a single number, in a shape whose sizes are all fixed."""
    sizes = [size for size in shape if isinstance(size, int)]
    if len(sizes) == len(shape) and value.ndim < 2 and value.size == np.prod(sizes, dtype=int):
        return value.reshape(sizes)
    return value


def _fits(actual: Sequence[int], shape: Sequence[Dimension]) -> bool:
    return len(actual) == len(shape) and all(
        not isinstance(size, int) or size == own for own, size in zip(actual, shape, strict=True)
    )


def _shaped(
    values: Numbers,
    lengths: Sequence[Numbers],
    rows: int,
    bad: dict[int, str],
    dtype: str,
    shape: Sequence[Dimension],
) -> Cells:
    """Give rows of nested lists their shapes; a row whose lists are ragged or misfit is bad."""
    sizes = [size for size in shape if isinstance(size, int)]
    fixed = len(sizes) == len(shape)
    if not lengths and not shape:
        return Cells(values, np.zeros((rows, 0), dtype=np.int64), bad)
    if not lengths or (len(lengths) == 1 and len(shape) > 1 and fixed):
        total = int(np.prod(sizes, dtype=np.int64))
        counts = lengths[0] if lengths else np.ones(rows, dtype=np.int64)
        shapes = np.tile(np.array(sizes, dtype=np.int64), (rows, 1))
        wrong = counts != total
        return _without_misfits(values, counts, wrong, shapes, bad, dtype, shape)
    shapes = np.zeros((rows, len(shape)), dtype=np.int64)
    shapes[:, 0] = lengths[0]
    lists = np.arange(rows)
    ragged = np.zeros(rows, dtype=bool)
    for level in range(1, len(lengths)):
        lists = np.repeat(lists, lengths[level - 1])  # the row of each list of this level
        counts = lengths[level]
        expected = shape[level]
        shapes[:, level] = expected if isinstance(expected, int) else 0  # of rows without lists
        if len(lists):
            starts = np.flatnonzero(np.concatenate([[True], lists[1:] != lists[:-1]]))
            least, most = np.minimum.reduceat(counts, starts), np.maximum.reduceat(counts, starts)
            shapes[lists[starts], level] = least
            ragged[lists[starts[least != most]]] = True
    for row in np.flatnonzero(ragged):
        bad.setdefault(int(row), "its lists have different lengths")
    elements = np.bincount(_owners(rows, lengths), minlength=rows)
    wrong = ragged.copy()
    for axis, size in enumerate(shape):
        if isinstance(size, int):
            wrong |= shapes[:, axis] != size
    return _without_misfits(values, elements, wrong, shapes, bad, dtype, shape)


def _without_misfits(
    values: Numbers,
    counts: Numbers,
    wrong: Numbers,
    shapes: Numbers,
    bad: dict[int, str],
    dtype: str,
    shape: Sequence[Dimension],
) -> Cells:
    """Drop the elements of rows of wrong shapes; `counts` has the elements of each row."""
    if wrong.any():
        for row in np.flatnonzero(wrong):
            flat = shapes.shape[1] > 1 and counts[row] != shapes[row].prod()
            actual = [counts[row]] if flat else shapes[row]
            bad.setdefault(int(row), _shape_text(actual, dtype, shape))
        values = values[np.repeat(~wrong, counts)]
        shapes = np.where(wrong[:, None], 0, shapes)
    return Cells(values, shapes, bad)


def _shape_text(actual: Sequence[Any], dtype: str, shape: Sequence[Dimension]) -> str:
    sizes = ",".join(str(int(size)) for size in actual)
    return f"it has the shape [{sizes}]: expected {dtype}{shape_text(tuple(shape))}"


def _unfit_text(value: object, dtype: str) -> str:
    return f"{shown(value)} cannot be {dtype}"


def shown(value: object) -> str:
    """Return a value of a table for a message, cut where it is long."""
    text = ascii(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def stacked(parts: Mapping[str, Cells], shape: Sequence[Dimension]) -> tuple[Cells, dict[int, str]]:
    """Return the cells of several columns of numbers as one, and the column of each bad row.

    Args:
        parts: the columns in order.
        shape: of one row; its sizes are fixed and as many as the columns, or it is one free size.
    """
    bad: dict[int, str] = {}
    where: dict[int, str] = {}
    for name, cells in parts.items():
        for row, why in cells.bad.items():
            if row not in bad:
                bad[row], where[row] = why, name
    table = np.stack([cells.values for cells in parts.values()], axis=1)
    sizes = [size if isinstance(size, int) else len(parts) for size in shape]
    shapes = np.tile(np.array(sizes, dtype=np.int64), (len(table), 1))
    return Cells(table.reshape(-1), shapes, bad), where

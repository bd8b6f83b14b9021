"""Tensors in tables: every way to write them gives the same values, and bad rows only are bad."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from torchship.score.cells import Cells, check_type, read_cells, read_text, stacked
from torchship.score.errors import TableError

ARRAYS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=4),
    elements=st.floats(-1e6, 1e6, width=32),
)


def nested(kind: pa.DataType, depth: int, make: Any = pa.list_) -> pa.DataType:
    for _ in range(depth):
        kind = make(kind)
    return kind


def columns(values: np.ndarray[Any, Any]) -> dict[str, pa.Array]:
    """The ways in which programs write rows of tensors of one shape."""
    rows, shape = values.tolist(), values.shape[1:]
    fixed: pa.DataType = pa.float32()
    for size in reversed(shape):
        fixed = pa.list_(fixed, size)
    depth = len(shape)
    size = int(np.prod(shape))
    return {
        "lists": pa.array(rows, nested(pa.float64(), depth)),
        "large lists": pa.array(rows, nested(pa.float32(), depth, pa.large_list)),
        "fixed lists": pa.array(rows, fixed),
        "flat": pa.array(values.reshape(len(values), -1).tolist(), pa.list_(pa.float32())),
        "flat and fixed": pa.array(
            values.reshape(len(values), -1).tolist(), pa.list_(pa.float32(), size)
        ),
        "tensors": pa.FixedShapeTensorArray.from_numpy_ndarray(values),
        "json": pa.array([json.dumps(row) for row in rows]),
        "slices": pa.array([rows[0], *rows, rows[0]], nested(pa.float32(), depth))[1:-1],
        "categories": pa.array([json.dumps(row) for row in rows]).dictionary_encode(),
    }


def value(cells: Cells, row: int) -> np.ndarray[Any, Any]:
    return np.asarray(cells.rows(np.array([row]))[0])


@settings(max_examples=20)
@given(ARRAYS)
def test_every_way_to_write_tensors_gives_the_same(values: np.ndarray[Any, Any]) -> None:
    shape = values.shape[1:]
    for way, column in columns(values).items():
        check_type(column.type, "float32", shape)
        cells = read_cells(column, "float32", shape)
        assert cells.bad == {}, way
        assert np.array_equal(cells.rows(np.arange(len(values))), values), way
        assert np.array_equal(value(cells, len(values) - 1), values[-1]), way
        if "flat" not in way:  # sizes that vary say nothing about a flat list
            free = read_cells(column, "float32", ["n", *shape[1:]])
            assert np.array_equal(free.rows(np.arange(len(values))), values), way


@settings(max_examples=20)
@given(st.lists(st.one_of(st.none(), ARRAYS.map(lambda a: a[0].reshape(-1).tolist())), max_size=6))
def test_rows_of_different_lengths(rows: list[list[float] | None]) -> None:
    for column in (
        pa.array(rows, pa.list_(pa.float32())),
        pa.array([None if row is None else json.dumps(row) for row in rows], pa.string()),
    ):
        cells = read_cells(column, "float32", ["time"])
        assert list(cells.bad) == [number for number, row in enumerate(rows) if row is None]
        for number, row in enumerate(rows):
            if row is not None:
                assert value(cells, number).tolist() == row


GOOD = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (None, "it is null"),
        ([[1.0, 2.0], None], "it has a null in it"),
        ([[1.0, None], [3.0, 4.0]], "it has a null in it"),
        ([[1.0, 2.0], [3.0]], "its lists have different lengths"),
        ([[1.0, 2.0]], "it has the shape [1,2]: expected float32[2,2]"),
        ([[1.0], [2.0]], "it has the shape [2,1]: expected float32[2,2]"),
        ([], "it has the shape [0,2]: expected float32[2,2]"),
        ([[], []], "it has the shape [2,0]: expected float32[2,2]"),
        ([[1e300, 2.0], [3.0, 4.0]], "1e+300 cannot be float32"),
    ],
)
def test_a_bad_row_is_bad_alone(row: object, why: str) -> None:
    rows = [GOOD, row, GOOD, row]
    cells = read_cells(pa.array(rows, nested(pa.float64(), 2)), "float32", (2, 2))
    assert cells.bad == {1: why, 3: why}
    assert value(cells, 0).tolist() == value(cells, 2).tolist() == GOOD
    assert np.array_equal(cells.rows(np.array([0, 2])), [GOOD, GOOD])


def test_a_ragged_row_among_free_sizes_is_bad_alone() -> None:
    rows = [GOOD, [[1.0, 2.0], [3.0]], [[5.0]]]
    cells = read_cells(pa.array(rows, nested(pa.float64(), 2)), "float32", ("n", "m"))
    assert cells.bad == {1: "its lists have different lengths"}
    assert (value(cells, 0).tolist(), value(cells, 2).tolist()) == (GOOD, [[5.0]])


def test_a_null_in_columns_of_tensors_and_of_fixed_lists() -> None:
    tensors = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [2, 2]),
        pa.array([[1, 2, 3, 4], None, [1, 2, 3, 4]], pa.list_(pa.float32(), 4)),
    )
    fixed = pa.array([GOOD, None, GOOD], pa.list_(pa.list_(pa.float32(), 2), 2))
    for column in (tensors, fixed):
        cells = read_cells(column, "float32", (2, 2))
        assert cells.bad == {1: "it is null"}
        assert np.array_equal(cells.rows(np.array([0, 2])), [GOOD, GOOD])


@pytest.mark.parametrize(
    ("text", "dtype", "result"),
    [
        ("1.5", "float32", 1.5),
        (" 1e3\t", "float32", 1000),
        ("nan", "float64", "nan"),
        ("-inf", "float32", float("-inf")),
        ("1e999", "float64", "'1e999' cannot be float64"),
        ("1e39", "float32", "'1e39' cannot be float32"),
        ("3", "int64", 3),
        ("3.0", "int64", 3),
        ("3.5", "int64", "'3.5' cannot be int64"),
        ("9007199254740993", "int64", 9007199254740993),
        ("9007199254740993.0", "int64", "'9007199254740993.0' cannot be int64"),
        ("18446744073709551615", "uint64", 18446744073709551615),
        ("18446744073709551615", "int64", "'18446744073709551615' cannot be int64"),
        ("-1", "uint64", "'-1' cannot be uint64"),
        ("256", "uint8", "'256' cannot be uint8"),
        ("true", "bool", True),
        ("0", "bool", False),
        ("2", "bool", "'2' cannot be bool"),
        ("0x10", "float32", "'0x10' cannot be float32"),
        ("1_000", "float32", "'1_000' cannot be float32"),
        ("", "float32", "'' cannot be float32"),
        (None, "int8", "it is empty"),
        ("einunddreißig", "int8", "'einunddrei\\xdfig' cannot be int8"),
    ],
)
def test_numbers_as_text(text: str | None, dtype: str, result: object) -> None:
    cells = read_cells(pa.array(["1", text, "1"]), dtype, ())
    if isinstance(result, str) and result != "nan":
        assert cells.bad == {1: result}
    else:
        assert cells.bad == {}
        found = value(cells, 1).item()
        assert found == result or (found != found and result == "nan")
    assert value(cells, 0).item() == value(cells, 2).item() == 1


@pytest.mark.parametrize(
    ("text", "dtype", "result"),
    [
        ("[1, 2.5]", "float32", [1, 2.5]),
        ("[3.0, 9007199254740993]", "int64", [3, 9007199254740993]),
        ("[1, 256]", "uint8", "256 cannot be uint8"),
        ("[1]", "float32", "it has the shape [1]: expected float32[2]"),
        ("[[1], [2]]", "float32", "it has the shape [2,1]: expected float32[2]"),
        ("1", "float32", "it has the shape []: expected float32[2]"),
        ("[1, [2]]", "float32", "'[1, [2]]' is no JSON list"),
        ('["1", "2"]', "float32", '\'["1", "2"]\' is no JSON list'),
        ("[1, null]", "float32", "'[1, null]' is no JSON list"),
        ('{"a": 1}', "float32", "'{\"a\": 1}' is no JSON list"),
        ("[1, 2", "float32", "'[1, 2' is no JSON list"),
        ("[" * 100_000, "float32", "is no JSON list"),
        (f"[1, {10**400}]", "float32", "is no JSON list"),
        (f"[1, {'9' * 5000}]", "float32", "is no JSON list"),
        ("[1, 1e999]", "int64", "cannot be int64"),
        ("", "float32", "it is empty"),
    ],
)
def test_lists_as_json(text: str, dtype: str, result: object) -> None:
    cells = read_cells(pa.array(["[1, 1]", text, "[1, 1]"]), dtype, (2,))
    if isinstance(result, str):
        assert list(cells.bad) == [1]
        assert result in cells.bad[1]
        assert len(cells.bad[1]) < 200
    else:
        assert cells.bad == {}
        assert value(cells, 1).tolist() == result
    assert value(cells, 0).tolist() == value(cells, 2).tolist() == [1, 1]


def test_decimals_and_bytes() -> None:
    decimals = pa.array(["1.5", "2", None], pa.string()).cast(pa.decimal128(5, 2))
    assert read_cells(decimals, "float32", ()).values.tolist()[:2] == [1.5, 2]
    assert read_cells(decimals, "int8", ()).bad == {
        0: "Decimal('1.50') cannot be int8",
        2: "it is null",
    }
    halves = pa.array(np.array([1.5, 2], dtype=np.float16))
    assert read_cells(halves, "float32", ()).values.tolist() == [1.5, 2]
    texts, bad = read_text(pa.array([b"ja", b"\xff", None]))
    assert (texts[0], bad) == ("ja", {1: "it is not UTF-8", 2: "it is null"})


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (pa.list_(pa.float32()), ()),
        (pa.float32(), (2,)),
        (pa.float32(), ("time",)),
        (pa.list_(pa.float32()), (2, "time")),
        (pa.list_(pa.string()), (2,)),
        (pa.timestamp("s"), ()),
        (pa.null(), ()),
        (pa.struct([("a", pa.int8())]), ()),
        (pa.fixed_shape_tensor(pa.float32(), [2, 3]), (3, 2)),
        (pa.fixed_shape_tensor(pa.float32(), [2, 2], permutation=[1, 0]), (2, 2)),
    ],
)
def test_types_that_cannot_be_the_input(kind: pa.DataType, shape: tuple[int | str, ...]) -> None:
    with pytest.raises(TableError, match="expected"):
        check_type(kind, "float32", shape)


def test_a_number_is_a_tensor_of_one_element() -> None:
    check_type(pa.int8(), "float32", (1,))
    cells = read_cells(pa.array([1, 2, None], pa.int8()), "float32", (1,))
    assert cells.bad == {2: "it is null"}
    assert cells.rows(np.array([0, 1])).tolist() == [[1], [2]]


def test_columns_that_are_elements() -> None:
    parts = {
        "a": read_cells(pa.array([1, 2, 3]), "int8", ()),
        "b": read_cells(pa.array([4, None, 600]), "int8", ()),
    }
    cells, where = stacked(parts, (2,))
    assert cells.bad == {1: "it is null", 2: "600 cannot be int8"}
    assert where == {1: "b", 2: "b"}
    assert value(cells, 0).tolist() == [1, 4]

"""Joins the parts of a file's result to the file that the user gets."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from torchship.score.errors import RunError
from torchship.score.parts import open_part
from torchship.score.scorer import METADATA
from torchship.score.tables import without_dictionaries

ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # so that the same result gives the same bytes

Writer = Callable[[Path, Sequence[Path]], None]


def write_parquet(target: Path, parts: Sequence[Path]) -> None:
    """Write Parquet with a row group for each part; what made it is in the file's metadata."""
    with open_part(parts[0]) as first:
        schema = first.schema
    with pq.ParquetWriter(target, schema) as writer:
        for batches in _tables(parts):
            writer.write_table(pa.Table.from_batches(batches, schema))


def write_csv(target: Path, parts: Sequence[Path]) -> None:
    """Write CSV; a list is JSON in its cell."""
    with open_part(parts[0]) as first:
        nothing = _csv_columns(_empty(first.schema))
    with target.open("wb") as file, pc.CSVWriter(file, nothing.schema) as writer:
        for batches in _tables(parts):
            for batch in batches:
                writer.write_batch(_csv_columns(batch))


def write_npz(target: Path, parts: Sequence[Path]) -> None:
    """Write an array for each column; what made the file is in the zip's comment.

    Raises:
        RunError: a column cannot be an array.
    """
    with open_part(parts[0]) as first:
        schema = first.schema
    with zipfile.ZipFile(target, "w") as file:
        file.comment = (schema.metadata or {}).get(METADATA, b"")
        for field in schema:
            dtype, shape = _array_type(field, parts)
            rows = sum(len(part) for part in _column(parts, field.name))
            header = {"descr": dtype.str, "fortran_order": False, "shape": (rows, *shape)}
            info = zipfile.ZipInfo(f"{field.name}.npy", ZIP_TIME)
            with file.open(info, "w", force_zip64=True) as record:
                np.lib.format.write_array_header_2_0(record, header)
                for column in _column(parts, field.name):
                    record.write(_values(column, dtype, field.name).tobytes())


WRITERS: dict[str, Writer] = {"parquet": write_parquet, "csv": write_csv, "npz": write_npz}


def _tables(parts: Sequence[Path]) -> Iterator[list[pa.RecordBatch]]:
    for path in parts:
        with open_part(path) as part:
            batches = list(part.batches())
            if batches:
                yield batches


def _column(parts: Sequence[Path], name: str) -> Iterator[pa.Array]:
    for batches in _tables(parts):
        for batch in batches:
            yield batch.column(name)


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.nulls(0, f.type) for f in schema], schema=schema)


def _csv_columns(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = []
    for column in without_dictionaries(batch).columns:
        if isinstance(column.type, pa.BaseExtensionType):
            column = column.storage
        if pa.types.is_nested(column.type):
            texts = [None if v is None else json.dumps(v, default=str) for v in column.to_pylist()]
            column = pa.array(texts, pa.string())
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _array_type(field: pa.Field, parts: Sequence[Path]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    kind, shape = field.type, []
    if isinstance(kind, pa.FixedShapeTensorType):
        return np.dtype(kind.value_type.to_pandas_dtype()), tuple(kind.shape)
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.dtype(kind.to_pandas_dtype()), tuple(shape)
    if not shape and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        longest = max(
            (len(text) for column in _column(parts, field.name) for text in column.to_pylist()
             if text is not None), default=0,
        )  # fmt: skip
        return np.dtype(f"<U{max(longest, 1)}"), ()
    raise RunError(
        f"the column '{field.name}' has the type {field.type}, which no array of an npz can have: "
        "leave it out, or write parquet"
    )


def _values(column: pa.Array, dtype: np.dtype[Any], name: str) -> np.ndarray[Any, np.dtype[Any]]:
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    while True:
        if column.null_count:
            raise RunError(
                f"the column '{name}' has nulls, which no array of an npz can have: leave it out, "
                "or write parquet"
            )
        if not pa.types.is_fixed_size_list(column.type):
            break
        column = column.flatten()
    if dtype.kind == "U":
        return np.array(column.to_pylist(), dtype=dtype)
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=dtype)

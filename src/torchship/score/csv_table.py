"""CSV files. Every cell is text until it is cast, so that a bad cell costs its row only."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pc

from torchship.score.cells import cast_each
from torchship.score.errors import TableError
from torchship.score.tables import BadRow, Chunk, named, reading, rechunked

BLOCK = 8 << 20  # bytes that are parsed at once: no row may be longer


class CsvTable:
    """An open CSV file with a line of names; tabs separate the columns of a `.tsv`."""

    starts: Sequence[int] = (0,)
    rows: int | None = None

    def __init__(self, path: Path) -> None:
        """Read the names.

        Raises:
            TableError: there are none, or the file cannot be read.
        """
        self._path = path
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        with reading(path):
            if os.stat(path).st_size == 0:
                raise TableError(f"{named(path)} is empty: expected a line with column names")
            names = self._open([], lambda row: "skip").schema.names
        self.schema: pa.Schema = pa.schema([(name, pa.string()) for name in names])

    def chunks(self, columns: Sequence[str], size: int, first: int = 0) -> Iterator[Chunk]:
        """Do as `Table.chunks`; a row with too many or too few cells is bad."""
        yield from islice(self._chunks(columns, size), first, None)

    def _chunks(self, columns: Sequence[str], size: int) -> Iterator[Chunk]:
        bad: list[BadRow] = []  # of which no chunk tells yet

        def skip(row: pc.InvalidRow) -> str:
            # The parser counts from 1, the line of names included.
            error = f"the row has {row.actual_columns} cells: expected {row.expected_columns}"
            bad.append(BadRow(row.number - 2, None, "bad_table", error))
            return "skip"

        row = 0
        with reading(self._path):
            for batch in rechunked(self._open(columns, skip), size, 0):
                # The parser is ahead of this batch, so it has met the bad rows before its end.
                numbers = np.arange(row, row + batch.num_rows + len(bad))
                numbers = np.setdiff1d(numbers, [one.row for one in bad])[: batch.num_rows]
                row = int(numbers[-1]) + 1
                told = [one for one in bad if one.row < row]
                del bad[: len(told)]
                yield _decoded(batch.select(list(columns)), numbers, told)
            if bad:
                nothing = [pa.nulls(0, pa.string()) for _ in columns]
                rows = pa.RecordBatch.from_arrays(nothing, names=list(columns))
                yield Chunk(rows, np.arange(0), list(bad))

    def _open(self, columns: Sequence[str], skip: object) -> pc.CSVStreamingReader:
        return pc.open_csv(
            pa.OSFile(os.fsencode(self._path)),
            # With several threads, the parser would not know the numbers of rows.
            read_options=pc.ReadOptions(use_threads=False, block_size=BLOCK),
            parse_options=pc.ParseOptions(
                delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            convert_options=pc.ConvertOptions(
                check_utf8=False,
                column_types={name: pa.binary() for name in columns},
                include_columns=list(columns) or None,
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )


def _decoded(batch: pa.RecordBatch, numbers: npt.NDArray[np.int64], bad: list[BadRow]) -> Chunk:
    """Return a chunk with text in place of bytes; a row with bytes that are none is bad."""
    columns, wrong = [], np.zeros(batch.num_rows, dtype=bool)
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        texts, unfit = cast_each(column, pa.string())
        for place in np.flatnonzero(unfit & ~wrong):
            bad.append(BadRow(int(numbers[place]), name, "bad_table", "it is not UTF-8"))
        wrong |= unfit
        columns.append(texts)
    decoded = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
    if wrong.any():
        decoded, numbers = decoded.filter(pa.array(~wrong)), numbers[~wrong]
    return Chunk(decoded, numbers, bad)

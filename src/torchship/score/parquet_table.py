"""Parquet files, of which a chunk at a time is in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from torchship.score.tables import Chunk, reading, rechunked, without_dictionaries

BUFFER = 1 << 20  # bytes of a column that are read at once
READ_ROWS, READ_BYTES = 1 << 14, 16 << 20
"""Limits of what is decoded at once: a few rows at a time, lists take a hundred times as long."""


class ParquetTable:
    """An open Parquet file."""

    def __init__(self, path: Path) -> None:
        """Read the footer.

        Raises:
            TableError: it is damaged, or the file cannot be read.
        """
        self._path = path
        with reading(path):
            # Neither a row group as a whole nor the file as a mapping is in memory.
            self._file = pq.ParquetFile(
                pa.OSFile(os.fsencode(path)),
                buffer_size=BUFFER,
                pre_buffer=False,
                page_checksum_verification=True,
            )
            self.schema: pa.Schema = self._file.schema_arrow
            metadata = self._file.metadata
            self.rows: int | None = metadata.num_rows
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            sizes = [group.num_rows for group in groups]
            row_bytes = sum(group.total_byte_size for group in groups) // max(sum(sizes), 1)
            self._read_rows = min(READ_ROWS, READ_BYTES // max(row_bytes, 1))
        self.starts: Sequence[int] = list(accumulate(sizes[:-1], initial=0))

    def chunks(self, columns: Sequence[str], size: int, first: int = 0) -> Iterator[Chunk]:
        """Do as `Table.chunks`."""
        row = first * size
        group = max((g for g, start in enumerate(self.starts) if start <= row), default=0)
        skip = row - self.starts[group]
        groups = list(range(group, self._file.metadata.num_row_groups))
        with reading(self._path):
            batches = self._file.iter_batches(
                max(size, self._read_rows), row_groups=groups, columns=list(columns)
            )
            picked = (without_dictionaries(batch.select(list(columns))) for batch in batches)
            for batch in rechunked(picked, size, skip):
                yield Chunk(batch, np.arange(row, row + batch.num_rows))
                row += batch.num_rows

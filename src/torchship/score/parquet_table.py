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
            groups = range(metadata.num_row_groups)
            sizes = [metadata.row_group(number).num_rows for number in groups]
        self.starts: Sequence[int] = list(accumulate(sizes[:-1], initial=0))

    def chunks(self, columns: Sequence[str], size: int, first: int = 0) -> Iterator[Chunk]:
        """Do as `Table.chunks`."""
        row = first * size
        group = max((g for g, start in enumerate(self.starts) if start <= row), default=0)
        skip = row - self.starts[group]
        groups = list(range(group, self._file.metadata.num_row_groups))
        with reading(self._path):
            batches = self._file.iter_batches(size, row_groups=groups, columns=list(columns))
            picked = (without_dictionaries(batch.select(list(columns))) for batch in batches)
            for batch in rechunked(picked, size, skip):
                yield Chunk(batch, np.arange(row, row + batch.num_rows))
                row += batch.num_rows

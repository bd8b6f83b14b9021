"""A part of a result: what becomes of some rows of a file, as bytes.

A run writes parts and joins them when a file is complete, so that a run that is started again
continues in the middle of a file, and so that other machines can score parts of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from torchship.score.errors import RunError
from torchship.score.tables import BadRow, first_line, named

BAD = b"torchship.bad"


def part_bytes(schema: pa.Schema, batches: Sequence[pa.RecordBatch], bad: list[BadRow]) -> bytes:
    """Return a part: scored rows in order, and the bad rows among them."""
    told = json.dumps([row.to_json() for row in sorted(bad, key=lambda row: row.row)])
    sink = pa.BufferOutputStream()
    metadata = {**(schema.metadata or {}), BAD: told.encode()}
    with pa.ipc.new_file(sink, schema.with_metadata(metadata)) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(metadata))
    data: bytes = sink.getvalue().to_pybytes()
    return data


class Part:
    """An open part."""

    def __init__(self, path: Path, reader: pa.ipc.RecordBatchFileReader) -> None:
        self._path = path
        self._reader = reader
        metadata = dict(reader.schema.metadata or {})
        self.bad = [BadRow(**row) for row in json.loads(metadata.pop(BAD))]
        self.schema: pa.Schema = reader.schema.with_metadata(metadata)

    @property
    def rows(self) -> int:
        """The number of rows that were scored."""
        counts = (
            self._reader.get_batch(n).num_rows for n in range(self._reader.num_record_batches)
        )
        return sum(counts)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows that were scored, in order."""
        for number in range(self._reader.num_record_batches):
            batch = self._reader.get_batch(number)
            yield batch.replace_schema_metadata(self.schema.metadata)


@contextmanager
def open_part(path: Path) -> Iterator[Part]:
    """Open a part for the length of the block.

    Raises:
        RunError: it is damaged.
    """
    try:
        with pa.memory_map(str(path)) as source:
            yield Part(path, pa.ipc.open_file(source))
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"the part {named(path)} of an earlier run is damaged ({first_line(error)}): start "
            "over with --restart"
        ) from None

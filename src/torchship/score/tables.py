"""The interface of a table: its columns, and its rows in chunks of equal size.

Rows keep the number that they have in the file, counted from 0. Chunks begin at multiples of their
size, so that a run that is started again makes the same calls as before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from torchship.score.errors import TableError

LONGEST = 200  # characters of a library's message


@dataclass(frozen=True)
class BadRow:
    """A row that was not scored, and why."""

    row: int
    """Its number in the file, from 0."""
    column: str | None
    """The column that is wrong; None if it is not one alone."""
    code: str
    error: str

    def to_json(self) -> dict[str, object]:
        """Return the fields as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Chunk:
    """Some rows of a table that follow each other."""

    rows: pa.RecordBatch
    numbers: npt.NDArray[np.int64]
    """The number of each row in the file."""
    bad: list[BadRow] = field(default_factory=list)
    """Rows that are not among `rows`, since the file does not give their columns."""


class Table(Protocol):
    """An open file."""

    schema: pa.Schema
    """Of all columns; names may stand twice."""
    rows: int | None
    """None if the file does not say."""
    starts: Sequence[int]
    """Rows at which reading can begin without reading those before, the first 0."""

    def chunks(self, columns: Sequence[str], size: int, first: int = 0) -> Iterator[Chunk]:
        """Yield chunks of `size` rows, the last of fewer, from the chunk number `first` on.

        Raises:
            TableError: the file is damaged.
        """
        ...


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what libraries raise about a file's content into a TableError that names the file."""
    try:
        yield
    except TableError:
        raise
    except (pa.ArrowException, OSError, ValueError, EOFError, OverflowError) as error:
        raise TableError(f"cannot read {named(path)}: {first_line(error)}") from None
    except MemoryError:
        raise TableError(f"cannot read {named(path)}: it needs more memory than there is") from None


def named(path: Path) -> str:
    """Return a file's name in quotes, on one line whatever it is."""
    return f"'{printable(path)}'"


def printable(path: Path) -> str:
    """Return a file's name on one line, with escapes for what cannot be printed."""
    return _visible(os.fsencode(path).decode("utf-8", "backslashreplace"))


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, cut where it is long."""
    known = error.strerror if isinstance(error, OSError) else None
    text = (known or str(error) or type(error).__name__).strip().splitlines()[0]
    text = _visible(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def check_regular(path: Path) -> os.stat_result:
    """Return a file's status; opening another kind of file, such as a FIFO, would block.

    Raises:
        TableError: it is none, or the system refuses.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise TableError(f"cannot read {named(path)}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise TableError(f"{named(path)} is no regular file")
    return status


def rechunked(batches: Iterable[pa.RecordBatch], size: int, skip: int) -> Iterator[pa.RecordBatch]:
    """Yield batches of `size` rows, the last of fewer, without the first `skip` rows."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        if skip >= batch.num_rows:
            skip -= batch.num_rows
            continue
        waiting.append(batch.slice(skip))
        count += batch.num_rows - skip
        skip = 0
        if count >= size:
            whole = joined(waiting)
            for start in range(0, count - count % size, size):
                yield whole.slice(start, size)
            waiting, count = [whole.slice(count - count % size)], count % size
    if count:
        yield joined(waiting)


def joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Return batches of one schema as one."""
    if len(batches) == 1:
        return batches[0]
    combined: Any = pa.Table.from_batches(batches).combine_chunks()
    return combined.to_batches()[0]


def without_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch whose columns are what their dictionaries stand for.

    Dictionaries may change from batch to batch, which a file of batches does not allow.
    """
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)

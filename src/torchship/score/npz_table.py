"""Files of NumPy arrays whose first axis is the rows; nothing in them is unpickled."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from torchship.score.errors import TableError
from torchship.score.tables import Chunk, first_line, named, reading

MOST_ROW_BYTES = 1 << 28
"""Bytes of one row, or of an array in Fortran's order, which has to be read as a whole."""


@dataclass(frozen=True)
class Member:
    """One array of the file, as its header says."""

    record: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


class NpzTable:
    """An open file of arrays; arrays that cannot be columns are none."""

    def __init__(self, path: Path) -> None:
        """Read the header of every array.

        Raises:
            TableError: the file is no zip, or a header is damaged.
        """
        self._path = path
        self._members: dict[str, Member] = {}
        fields = []
        with reading(path), _zip_errors(path), zipfile.ZipFile(path) as file:
            for info in file.infolist():
                if info.filename.endswith(".npy"):
                    name = info.filename.removesuffix(".npy")
                    member = _read_header(file, info)
                    kind = None if member is None else _column_type(member)
                    if member is not None and kind is not None:
                        self._members[name] = member
                    fields.append((name, kind or pa.null()))
        self.schema: pa.Schema = pa.schema(fields)
        lengths = [member.shape[0] for member in self._members.values()]
        self.rows: int | None = lengths[0] if lengths else 0
        self.starts: Sequence[int] = (0,)

    def chunks(self, columns: Sequence[str], size: int, first: int = 0) -> Iterator[Chunk]:
        """Do as `Table.chunks`."""
        members = {name: self._members[name] for name in columns}
        counts = {name: member.shape[0] for name, member in members.items()}
        rows = next(iter(counts.values()))
        for name, count in counts.items():
            if count != rows:
                raise TableError(
                    f"{named(self._path)}: array '{name}' has {count} rows: expected {rows}, as "
                    f"'{next(iter(counts))}' has"
                )
        with reading(self._path), _zip_errors(self._path), ExitStack() as stack:
            file = stack.enter_context(zipfile.ZipFile(self._path))
            streams = {
                name: _Rows(stack.enter_context(_opened(file, member)), member)
                for name, member in members.items()
            }
            for stream in streams.values():
                stream.skip(min(first * size, rows))
            for row in range(first * size, rows, size):
                count = min(size, rows - row)
                arrays = [_column(streams[name].read(count)) for name in columns]
                batch = pa.RecordBatch.from_arrays(arrays, names=list(columns))
                yield Chunk(batch, np.arange(row, row + count))


class _zip_errors:
    """Tells what `zipfile` raises in one line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, zipfile.BadZipFile | zlib.error | NotImplementedError | RuntimeError):
            raise TableError(f"cannot read {named(self._path)}: {first_line(error)}") from None


class _Rows:
    """The rows of one array, read one after the other."""

    def __init__(self, stream: IO[bytes], member: Member) -> None:
        self._stream = stream
        self._member = member
        self._whole: npt.NDArray[Any] | None = None
        self._row = 0
        if member.fortran:
            flat = np.frombuffer(self._take(member.row_bytes * member.shape[0]), dtype=member.dtype)
            self._whole = flat.reshape(member.shape, order="F")

    def skip(self, count: int) -> None:
        if self._whole is not None:
            self._row += count
        else:
            self._stream.seek(count * self._member.row_bytes, 1)

    def read(self, count: int) -> npt.NDArray[Any]:
        member = self._member
        if self._whole is not None:
            self._row += count
            return np.ascontiguousarray(self._whole[self._row - count : self._row])
        data = self._take(count * member.row_bytes)
        return np.frombuffer(data, dtype=member.dtype).reshape(count, *member.shape[1:])

    def _take(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) != size:
            raise ValueError(f"record '{self._member.record}' ends before its last row")
        return data


def _read_header(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member | None:
    """Return what a record says of its array; None for pickled objects and arrays of records."""
    with file.open(info) as stream:
        shape, fortran, dtype = _parse_header(stream)
        offset = stream.tell()
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        return None
    if any(size < 0 for size in shape):
        raise ValueError(f"record '{info.filename}' has the shape {shape}")
    member = Member(info.filename, dtype, shape, fortran and len(shape) > 1)
    if dtype.itemsize * math.prod(shape) != info.file_size - offset:
        raise ValueError(f"record '{info.filename}' does not have the size that its header says")
    return member


def _parse_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"arrays of the format {version[0]}.{version[1]} are not read")


def _opened(file: zipfile.ZipFile, member: Member) -> IO[bytes]:
    """Open a record behind its header."""
    stream = file.open(member.record)
    _parse_header(stream)
    return stream


def _column_type(member: Member) -> pa.DataType | None:
    """Return the type of the column that an array becomes; None if it can be none."""
    whole = member.row_bytes * (member.shape[0] if member.fortran and member.shape else 1)
    if not member.shape or not member.row_bytes or whole > MOST_ROW_BYTES:
        return None
    if member.dtype.kind in "US":
        kind = pa.string() if member.dtype.kind == "U" else pa.binary()
        return kind if len(member.shape) == 1 else None
    if member.dtype.kind not in "biuf" or member.dtype.itemsize > 8:
        return None
    kind = pa.from_numpy_dtype(member.dtype.newbyteorder("="))
    return kind if len(member.shape) == 1 else pa.fixed_shape_tensor(kind, member.shape[1:])


def _column(values: npt.NDArray[Any]) -> pa.Array:
    if values.dtype.kind == "U":
        return pa.array(values.tolist(), pa.string())
    if values.dtype.kind == "S":
        return pa.array(values.tolist(), pa.binary())
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.ndim == 1:
        return pa.array(values)
    kind = pa.fixed_shape_tensor(pa.from_numpy_dtype(values.dtype), values.shape[1:])
    size = math.prod(values.shape[1:])
    storage = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), size)
    return pa.ExtensionArray.from_storage(kind, storage)

"""A file's bytes, read once, so that what is checked is what is loaded even if the file changes."""

from __future__ import annotations

import fcntl
import hashlib
import io
import mmap
import os
import stat
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from torchship.script.errors import ArchiveError, UnreadableError

BLOCK = 1 << 20  # bytes
MAX_INFLATED = 4 << 30  # bytes of an archive's records
MAX_FILE = MAX_INFLATED + (64 << 20)  # bytes: stored records, their names, padding and signature

KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def read_blocks(
    path: Path, most: int | None = None, progress: Callable[[int], None] = lambda size: None
) -> Iterator[bytes]:
    """Yield the bytes of a regular file block by block.

    Other kinds of files are refused without reading: a FIFO or a device would block the reader.
    `progress` is called with the size of each block.

    Raises:
        UnreadableError: the system refuses to open or read it.
        ArchiveError: it is not a regular file, or is larger than `most` bytes.
    """
    try:
        # Check before opening, because opening a device may have effects, and again afterwards.
        _check(path, os.stat(path), most)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb", buffering=0) as file:
            _check(path, os.fstat(descriptor), most)
            while block := file.read(BLOCK):
                progress(len(block))
                yield block
    except OSError as error:
        raise UnreadableError(f"cannot read '{path}': {error.strerror or error}") from None


def _check(path: Path, found: os.stat_result, most: int | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise ArchiveError(f"'{path}' is {kind}: expected a regular file")
    if most is not None and found.st_size > most:
        size = found.st_size
        raise ArchiveError(f"'{path.name}' has {size} bytes: expected at most {most}")


class DraftContent:
    """The bytes of a file that is being written; `Content` then makes them immutable.

    They are in a memory file (memfd) where the system has them: LibTorch then writes weights
    directly to it, which saves this process one copy.
    """

    file: BinaryIO
    """Open for reading and writing."""

    def __init__(self) -> None:
        """Start empty."""
        descriptor = _memory_file()
        self.file = io.BytesIO() if descriptor is None else open(descriptor, "r+b")  # noqa: SIM115

    @property
    def source(self) -> bytes | str:
        """The bytes, or the path of a file with them, for `torchscript.visit_records`."""
        if isinstance(self.file, io.BytesIO):
            return self.file.getvalue()
        self.file.flush()
        return _name(self.file.fileno())

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes block by block."""
        self.file.seek(0)
        while block := self.file.read(BLOCK):
            yield block

    def __enter__(self) -> DraftContent:
        """Return the draft; the bytes are freed at the end of the `with` block."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Free the bytes."""
        self.file.close()


class Content:
    """The immutable bytes of one file.

    They are in a sealed memory file (memfd) where the system has them. All readers, LibTorch's
    included, then read the same bytes, and none needs a copy.
    """

    size: int
    """The size in bytes."""
    digest: str
    """SHA-256 in hexadecimal digits."""

    def __init__(self, blocks: Iterable[bytes | memoryview]) -> None:
        """Store all blocks, then seal the memory file against writes."""
        sha = hashlib.sha256()
        self.size = 0
        self._data = b""
        self._descriptor = _memory_file()
        parts = []
        if self._descriptor is not None:
            self._close = weakref.finalize(self, os.close, self._descriptor)
        for block in blocks:
            sha.update(block)
            self.size += len(block)
            if self._descriptor is None:
                parts.append(block)
            else:
                _write(self._descriptor, block)
        if self._descriptor is None:
            self._data = b"".join(parts)
        else:
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, seals)
        self.digest = sha.hexdigest()

    @property
    def source(self) -> bytes | str:
        """The bytes, or the path of a file with them, for `torchscript.load` and similar."""
        return self._data if self._descriptor is None else _name(self._descriptor)

    def open(self) -> BinaryIO:
        """Open the bytes for reading, with an independent position.

        Raises:
            UnreadableError: the process has too many files open.
        """
        if self._descriptor is None:
            return io.BytesIO(self._data)
        try:
            return open(_name(self._descriptor), "rb")
        except OSError as error:
            raise UnreadableError(f"cannot read its bytes: {error.strerror}") from None

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes block by block.

        Raises:
            UnreadableError: the process has too many files open.
        """
        with self.open() as file:
            while block := file.read(BLOCK):
                yield block

    @contextmanager
    def view(self) -> Iterator[memoryview]:
        """Yield the bytes as one buffer, without a copy, for the length of the `with` block."""
        if self._descriptor is None or not self.size:
            yield memoryview(self._data)
        else:
            # Older kernels refuse a shared mapping of a sealed file, even a read-only one.
            flags, protection = mmap.MAP_PRIVATE, mmap.PROT_READ
            mapping = mmap.mmap(self._descriptor, self.size, flags, protection)
            with mapping, memoryview(mapping) as view:
                yield view

    def close(self) -> None:
        """Free the bytes; reading is an error afterwards."""
        if self._descriptor is not None:
            self._close()
        self._data = b""


def _memory_file() -> int | None:
    """Return the descriptor of a new memory file; None where the system has none."""
    try:
        descriptor = os.memfd_create("archive", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except (AttributeError, OSError):  # not Linux, or forbidden
        return None
    if not os.path.exists(_name(descriptor)):  # /proc is not mounted
        os.close(descriptor)
        return None
    return descriptor


def _name(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _write(descriptor: int, block: bytes | memoryview) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(descriptor, rest) :]

"""A file's bytes, read once: what is checked is what is loaded, whatever becomes of the file."""

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
    """Yield the bytes of a regular file, a block at a time.

    Anything else than a regular file is refused unread: a FIFO or a device would make its reader
    wait for a writer. `progress` is told how many bytes there are in each block.

    Raises:
        UnreadableError: the system refuses to open or to read it.
        ArchiveError: it is no regular file, or has more bytes than `most`.
    """
    try:
        # A look first, since to open a device may have an effect; and another at what was opened.
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
    """The bytes of a file that is being written; as a `Content` they change no more.

    They are in a file of the system's memory, where it has such files: LibTorch then writes weights
    there itself, and they are in this process once less.
    """

    file: BinaryIO
    """For reading and writing."""

    def __init__(self) -> None:
        """Begin without a byte."""
        descriptor = _memory_file()
        self.file = io.BytesIO() if descriptor is None else open(descriptor, "r+b")  # noqa: SIM115

    @property
    def source(self) -> bytes | str:
        """The bytes, or the name of a file that has them: for `torchscript.visit_records`."""
        if isinstance(self.file, io.BytesIO):
            return self.file.getvalue()
        self.file.flush()
        return _name(self.file.fileno())

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes, a block at a time."""
        self.file.seek(0)
        while block := self.file.read(BLOCK):
            yield block

    def __enter__(self) -> DraftContent:
        """Free the bytes at the end of a `with`."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Free the bytes."""
        self.file.close()


class Content:
    """The bytes of one file, which nobody can change any more.

    They are in a sealed file of the system's memory, where the system has such files: every reader
    of the archive, LibTorch's own too, then reads the same bytes, and none has to copy them all.
    """

    size: int
    """In bytes."""
    digest: str
    """SHA-256, in hexadecimal digits."""

    def __init__(self, blocks: Iterable[bytes | memoryview]) -> None:
        """Take all of the blocks, and let nobody write any more."""
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
        """The bytes, or the name of a file that has them: for `torchscript.load` and its like."""
        return self._data if self._descriptor is None else _name(self._descriptor)

    def open(self) -> BinaryIO:
        """Open the bytes for reading, with a position of their own.

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
        """Yield the bytes, a block at a time.

        Raises:
            UnreadableError: the process has too many files open.
        """
        with self.open() as file:
            while block := file.read(BLOCK):
                yield block

    @contextmanager
    def view(self) -> Iterator[memoryview]:
        """Give the bytes as one buffer, for the length of a `with`, without a copy."""
        if self._descriptor is None or not self.size:
            yield memoryview(self._data)
        else:
            # A shared mapping of a sealed file is refused by older kernels, also for reading.
            flags, protection = mmap.MAP_PRIVATE, mmap.PROT_READ
            mapping = mmap.mmap(self._descriptor, self.size, flags, protection)
            with mapping, memoryview(mapping) as view:
                yield view

    def close(self) -> None:
        """Free the bytes; nothing can be read any more."""
        if self._descriptor is not None:
            self._close()
        self._data = b""


def _memory_file() -> int | None:
    """Return the descriptor of a new file in memory; None where there are none."""
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

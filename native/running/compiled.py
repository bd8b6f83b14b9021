"""The library of an archive in the user's cache, compiled there once."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from torchship.native.building.cache import cached_library, folder
from torchship.native.building.toolchain import FLAGS, compiler
from torchship.native.compiler import compile_archive
from torchship.native.errors import UnsupportedError
from torchship.native.running.library import Library
from torchship.script.errors import UsageError
from torchship.script.runtime.archive import Archive

LARGEST = 32 << 20  # bytes of an archive; a C compiler needs some fifty times as much memory


def compile_library(archive: Archive) -> Library:
    """Compile an archive into the cache, unless it was before, and load the library.

    Of several processes that ask at the same time, one compiles.

    Raises:
        UnsupportedError: an operator has no C, or the archive is too large.
        CompilerMissingError: there is no C compiler.
        NativeError: the compiler fails.
        UsageError: the cache cannot be used.
    """
    check_size(archive, "lib")
    return Library(_compiled(archive), archive.require_manifest(), archive.digest)


def check_size(archive: Archive, target: str) -> None:
    """Refuse an archive that is too large to be compiled while a server waits for it.

    Raises:
        UnsupportedError: it is; the message says to compile it with that target before.
    """
    if archive.size > LARGEST:
        raise UnsupportedError(
            f"the archive has {archive.size >> 20} MiB, and at most {LARGEST >> 20} MiB are "
            f"compiled by a server: use `torchship compile --target {target}`"
        )


def key_of(archive: Archive, command: str, flags: Sequence[str]) -> str:
    """Return a digest of what decides what a compiler makes of an archive."""
    made_of = (archive.digest, _version_of_this_code(), _version_of(command), *flags)
    return hashlib.sha256("\0".join((*made_of, platform.machine())).encode()).hexdigest()[:32]


def _compiled(archive: Archive) -> Path:
    # The cache knows libraries by their code. Generating it takes seconds, so a link with what the
    # code is made of leads to the library.
    key = key_of(archive, compiler(), FLAGS)
    place = folder()
    link = place / f"archive-{key}"
    try:
        with locked(place):
            if not link.exists():
                library = cached_library(compile_archive(archive, golden=False))
                new = place / f"archive-{key}.new"
                new.unlink(missing_ok=True)
                new.symlink_to(library.name)
                new.replace(link)
            return link.resolve()
    except OSError as error:
        raise UsageError(f"cannot use the cache '{place}': {error.strerror}") from None


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Hold the lock of the cache's folder, which nobody else may write to."""
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UsageError(
                f"the cache '{place}' can be written by others: expected a folder of this user's "
                "own with the mode 700"
            )
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _version_of(command: str) -> str:
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    return f"{command} {done.stdout}"


@cache
def _version_of_this_code() -> str:
    """Return a digest of the package's files, which decide what code an archive becomes."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for file in sorted(f for f in root.rglob("*") if f.suffix in (".py", ".h", ".mjs")):
        digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()

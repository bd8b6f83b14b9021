"""Mirrors the archives at one address into a local folder, through the cache.

A server reads the folder as any other. It gets an archive only as a whole: its bytes have the size
and the tag that the store said before and after, and its signature, if one is required, fits.
Until then, what the folder had under that name stays there.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.errors import ArchiveError, TorchShipError
from torchship.script.format.signing import check_signature
from torchship.serve.errors import StoreError
from torchship.serve.stores.addresses import SIGNATURE, Address
from torchship.serve.stores.cache import Cache, digest_of
from torchship.serve.stores.fetching import fetch
from torchship.serve.stores.store import Progress, RemoteFile, Store

log = logging.getLogger(__name__)

Tags = tuple[RemoteFile, RemoteFile | None]


@dataclass
class Copy:
    """A local file: its digest, and its state when that was computed."""

    digest: str
    status: tuple[int, int, int]


class Mirror:
    """One address and its folder; used from one thread at a time."""

    def __init__(
        self,
        address: Address,
        folder: Path,
        cache: Cache,
        open_: Callable[[], Store],
    ) -> None:
        """Take the address, an empty folder in a run of the cache, and what opens the store."""
        self.address = address
        self.keys: Sequence[Ed25519PublicKey] = ()
        """Those that must have signed what is published; none if empty."""
        self._folder, self._cache, self._open = folder, cache, open_
        self._store: Store | None = None
        self._temporary = folder.parent / f"{folder.name}.tmp"
        self._seen: dict[str, tuple[Tags, object]] = {}
        self._refused: dict[str, tuple[tuple[Tags, object], str]] = {}
        self._copies: dict[Path, Copy] = {}
        self._archives = 0

    @property
    def has_archives(self) -> bool:
        """Whether the store had an archive when it was listed last."""
        return self._archives > 0

    def sync(self, progress: Progress = lambda size: None) -> list[str]:
        """Make the folder hold what the store holds; return what could not be fetched, and why.

        Raises:
            StoreError: the store cannot be listed; the folder stays as it is.
            UsageError: the cache cannot be written.
        """
        try:
            if self._store is None:
                self._store = self._open()
            files = self._store.listing()
        except StoreError:
            self._store = None  # the next attempt begins with a new connection and credentials
            raise
        problems = []
        archives = {name: file for name, file in files.items() if not name.endswith(SIGNATURE)}
        self._archives = len(archives)
        for name, file in sorted(archives.items(), key=lambda item: item[1].size or 0):
            tags = (file, files.get(name + SIGNATURE) if self.keys else None)
            try:
                self._update(name, tags, progress)
            except TorchShipError as error:
                problems.append(str(error))
        for path in self._published():
            name = path.relative_to(self._folder).as_posix()
            if name.removesuffix(SIGNATURE) not in archives:
                self._unpublish(path)
                self._seen.pop(name, None)
        return problems

    def _published(self) -> list[Path]:
        return sorted(path for path in self._folder.rglob("*") if path.is_file())

    def _update(self, name: str, tags: Tags, progress: Progress) -> None:
        target = self._folder / name
        if all(file is None or file.tag for file in tags):
            if self._refused.get(name, (None,))[0] == (tags, self.keys):
                raise StoreError(self._refused[name][1])
            if self._seen.get(name) == (tags, self.keys) and self._is_intact(target):
                return
        self._refused.pop(name, None)
        parts = [(file.name, self._fetched(file, progress)) for file in tags if file is not None]
        self._publish(name, dict(parts), (tags, self.keys))
        self._seen[name] = tags, self.keys

    def _is_intact(self, target: Path) -> bool:
        """Return whether published files still have the content that they had."""
        for path in (target, target.with_name(target.name + SIGNATURE)):
            copy = self._copies.get(path)
            if copy is not None and not self._has(path, copy):
                return False
        return True

    def _has(self, path: Path, copy: Copy) -> bool:
        with contextlib.suppress(OSError, ArchiveError):
            if _status(path) == copy.status:
                return True
            if digest_of(path) == copy.digest:
                copy.status = _status(path)
                return True
        return False

    def _fetched(self, file: RemoteFile, progress: Progress) -> str:
        """Return the digest of an object's content, which is then in the cache.

        Raises:
            StoreError: it cannot be fetched as a whole.
        """
        digest = self._cache.known(self._object(file)) if file.tag else None
        if digest is not None and self._is_good(digest):
            return digest
        assert self._store is not None
        self._cache.make_room(file.size or 0)
        size = "unknown size" if file.size is None else f"{file.size} bytes"
        log.info("fetching %s: %s, %s", self.address, file.name, size)
        with self._cache.writing():
            self._temporary.mkdir(exist_ok=True)
            target = self._temporary / "fetched"
            target.unlink(missing_ok=True)
            try:
                file = fetch(self._store, self.address, file, target, progress)
                with open(target, "rb") as fetched:
                    os.fsync(fetched.fileno())
                digest = self._cache.add(target)
            finally:
                target.unlink(missing_ok=True)
        if file.tag:
            self._cache.remember(self._object(file), digest)
        return digest

    def _object(self, file: RemoteFile) -> str:
        return f"{self.address} {file.location} {file.tag}"

    def _is_good(self, digest: str) -> bool:
        """Return whether the cache has a content undamaged; remove a damaged one."""
        content = self._cache.content(digest)
        try:
            if digest_of(content) == digest:
                return True
        except ArchiveError:
            return False
        log.warning("the cache had a damaged file, which is fetched again: %s", content)
        with self._cache.writing():
            content.unlink(missing_ok=True)
        return False

    def _publish(self, name: str, digests: dict[str, str], seen: tuple[Tags, object]) -> None:
        """Put an archive, and its signature if there is one, into the folder.

        Raises:
            StoreError: the archive is not complete, and an earlier one is there.
        """
        candidates = {part: self._temporary / Path(part).name for part in digests}
        with self._cache.writing():
            self._temporary.mkdir(exist_ok=True)
            for old in self._temporary.iterdir():
                old.unlink()
            for part, digest in digests.items():
                self._cache.link(digest, candidates[part])
        target = self._folder / name
        if target.exists() and (why := self._incomplete(candidates[name])):
            text = f"{self.address}: {name} is not complete yet: {why}"
            self._refused[name] = seen, text
            raise StoreError(text)
        with self._cache.writing():
            for part in sorted(digests, reverse=True):  # the signature first
                path = self._folder / part
                path.parent.mkdir(parents=True, exist_ok=True)
                copy = Copy(digests[part], _status(candidates[part]))
                known = self._copies.get(path)
                if known is None or known.digest != copy.digest or not self._has(path, known):
                    os.replace(candidates[part], path)
                    copy.status = _status(path)
                    self._copies[path] = copy
            signature = target.with_name(target.name + SIGNATURE)
            if name + SIGNATURE not in digests:
                self._unpublish(signature)

    def _incomplete(self, archive: Path) -> str:
        """Return why an archive looks as if it was still being uploaded, or ""."""
        try:
            if not self.keys:
                return "" if zipfile.is_zipfile(archive) else "it does not end as a zip does"
            with (
                open(archive, "rb") as file,
                mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping,
                memoryview(mapping) as view,
            ):
                check_signature(archive, view, self.keys)
        except (ArchiveError, ValueError) as error:  # mmap refuses an empty file
            return str(error).replace(str(archive), archive.name)
        return ""

    def _unpublish(self, path: Path) -> None:
        self._copies.pop(path, None)
        with self._cache.writing():
            path.unlink(missing_ok=True)
            while (path := path.parent) != self._folder and not any(path.iterdir()):
                path.rmdir()


def _status(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino

"""The local cache of what stores hold: each content once, under its SHA-256.

Several servers and commands share a cache. Each has a folder of its own in it (a run), whose files
are hard links to contents; a content with no other link is in nobody's use and may be evicted. All
writes are renames, so that no reader sees a partial file and no lock is needed; whoever wants to
link a content that was just evicted fetches it again.

    contents/<sha256>          what was fetched
    known/<sha256 of object>   the digest of an object of a store, with a certain tag
    runs/<name>/               links and temporary files of one process, locked while it runs
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from torchship.script.errors import UsageError
from torchship.script.format.atomic_write import write_atomic
from torchship.script.format.file_content import read_blocks
from torchship.serve.errors import StoreError

DIGEST = re.compile(r"[0-9a-f]{64}")
LAYOUT = "stores-1"  # the name of the cache's folder; another layout gets another one


def default_folder() -> Path:
    """Return the folder of caches in the user's cache."""
    from pooch.utils import os_cache

    return Path(os_cache("torchship"))


class Cache:
    """The cache in a folder, which only this user can write to."""

    def __init__(self, parent: Path, most_bytes: int) -> None:
        """Make the cache in `parent` if it is not there yet.

        Raises:
            UsageError: the folder cannot be made, or others can write to it.
        """
        self.folder = parent / LAYOUT
        self._most_bytes = most_bytes
        with self.writing():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = os.stat(self.folder)
            for name in ("contents", "known", "runs"):
                (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UsageError(
                f"the cache '{self.folder}' can be written by others: expected a folder of this "
                "user's own with the mode 700; --store-cache names another one"
            )

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn errors of the disk into one message.

        Raises:
            UsageError: the disk refuses.
        """
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"cannot write to the cache '{self.folder}': {error.strerror or error}; "
                "--store-cache names another folder"
            ) from None

    def content(self, digest: str) -> Path:
        """Return the path of a content, whether it is there or not."""
        return self.folder / "contents" / digest

    def known(self, object_: str) -> str | None:
        """Return the digest of an object of a store, if that was fetched before."""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            digest = self._known(object_).read_text()
            if DIGEST.fullmatch(digest):
                return digest
        return None

    def remember(self, object_: str, digest: str) -> None:
        """Remember the digest of an object, which is named with its store and its tag."""
        with contextlib.suppress(UsageError):  # then it is fetched again after a restart
            write_atomic(self._known(object_), digest.encode())

    def _known(self, object_: str) -> Path:
        return self.folder / "known" / hashlib.sha256(object_.encode()).hexdigest()

    def add(self, file: Path) -> str:
        """Move a fetched file into the cache; return its digest.

        Raises:
            UsageError: the disk refuses.
        """
        digest = digest_of(file)
        with self.writing():
            os.chmod(file, 0o600)
            os.replace(file, self.content(digest))
        return digest

    def link(self, digest: str, target: Path) -> None:
        """Make `target` a file with this content, in place of one that is there.

        Raises:
            FileNotFoundError: the content was evicted meanwhile.
            UsageError: the disk refuses.
        """
        content = self.content(digest)
        new = target.with_name(target.name + ".new")
        with self.writing():
            target.parent.mkdir(parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
        try:
            os.link(content, new)
            status = os.stat(content)
            os.utime(content, ns=(time.time_ns(), status.st_mtime_ns))  # the order of eviction
        except FileNotFoundError:
            raise
        except OSError:  # a file system without hard links
            with self.writing():
                shutil.copyfile(content, new)
        with self.writing():
            if target.exists() and os.path.samefile(new, target):
                new.unlink()  # the rename of one link over another does nothing
            else:
                os.replace(new, target)

    def make_room(self, size: int) -> None:
        """Evict contents that nobody uses, the least recently used first, for `size` more bytes.

        Raises:
            StoreError: all that is left is in use.
        """
        found = []
        for path in (self.folder / "contents").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append((path, path.stat()))
        total = sum(status.st_size for _, status in found) + size
        for path, status in sorted(found, key=lambda entry: entry[1].st_atime_ns):
            if total <= self._most_bytes:
                return
            if status.st_nlink == 1:
                path.unlink(missing_ok=True)
                total -= status.st_size
        if total > self._most_bytes:
            raise StoreError(
                f"the cache '{self.folder}' has no room for {size} more bytes: the rest of its "
                f"{self._most_bytes} bytes is in use; --store-cache-bytes allows more"
            )

    def new_run(self) -> Run:
        """Return a folder of one's own, and remove those of processes that have ended.

        What is known of contents that were evicted is removed too.

        Raises:
            UsageError: the disk refuses.
        """
        with self.writing():
            for path in (self.folder / "known").iterdir():
                with contextlib.suppress(OSError, UnicodeDecodeError):
                    if not self.content(path.read_text() or " ").exists():
                        path.unlink()
            return Run(self.folder / "runs")


class Run:
    """A folder in the cache that exists for as long as its process."""

    def __init__(self, runs: Path) -> None:
        """Make and lock it.

        Raises:
            OSError: the disk refuses.
        """
        _remove_ended(runs)
        # It is locked under a hidden name, since others remove what is not locked.
        hidden = Path(tempfile.mkdtemp(prefix=".", dir=runs))
        self._lock = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.folder = runs / hidden.name.lstrip(".")
        hidden.rename(self.folder)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def _remove_ended(runs: Path) -> None:
    for folder in runs.iterdir():
        if folder.name.startswith("."):
            continue
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def digest_of(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    Raises:
        ArchiveError: it cannot be read.
    """
    sha = hashlib.sha256()
    for block in read_blocks(file):
        sha.update(block)
    return sha.hexdigest()

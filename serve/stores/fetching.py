"""Fetches an object as a whole: one that has the same tag and size before and after."""

from __future__ import annotations

from pathlib import Path

from torchship.script.format.file_content import MAX_FILE
from torchship.script.format.signing import LENGTH
from torchship.serve.errors import StoreError
from torchship.serve.stores.addresses import SIGNATURE, Address
from torchship.serve.stores.store import Progress, RemoteFile, Store

TRIES = 3  # to read an object that changes while it is read


def largest(name: str) -> int:
    """Return how many bytes an archive, or a signature, has at most."""
    return LENGTH if name.endswith(SIGNATURE) else MAX_FILE


def fetch(
    store: Store,
    address: Address,
    file: RemoteFile,
    target: Path,
    progress: Progress = lambda size: None,
) -> RemoteFile:
    """Fetch an object to a local file; return it as it was then.

    Raises:
        StoreError: it cannot be fetched, is too large, or changes all the time.
        OSError: the local disk refuses.
    """
    for _ in range(TRIES):
        most = largest(file.name)
        if file.size is not None and file.size > most:
            raise StoreError(
                f"{address}: {file.name}: it has {file.size} bytes: expected at most {most}"
            )
        store.fetch(file, target, most, progress)
        now = store.find(file.name)
        if now is None:
            break
        if (now.tag, now.size) == (file.tag, file.size):
            return file
        file = now
    raise StoreError(f"{address}: {file.name}: it changed while it was fetched")

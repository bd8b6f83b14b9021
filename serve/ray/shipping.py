"""Archives in Ray's key-value store, from where every node can take them.

The store is where Ray Serve keeps what an application is: an archive in it is there for as long as
the application can be started again, on whichever node. An archive is addressed by its digest, so
the same one is sent once, and a replica checks what it took.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from ray.experimental.internal_kv import (
    _internal_kv_del,
    _internal_kv_get,
    _internal_kv_initialized,
    _internal_kv_list,
    _internal_kv_put,
)

from torchship.script.errors import UnreadableError
from torchship.script.format.atomic_write import write_atomic
from torchship.script.format.signing import signature_path

NAMESPACE = b"torchship"
BLOCKS, COUNTS = "archive/", "blocks/"
BLOCK_BYTES = 4 << 20
KEPT_SECONDS = 3600  # for which an archive is kept that no application uses: one may be about to
MOST_BYTES = 1 << 30
"""Limit for all archives of one application: the head node holds them in memory."""


class Shipped(BaseModel):
    """An archive in the store: its file's name, digest and size, and its detached signature."""

    model_config = ConfigDict(frozen=True)

    file: str
    digest: str
    size: int
    signature: str | None = None


def is_connected() -> bool:
    """Return whether this process is connected to a cluster."""
    return bool(_internal_kv_initialized())  # type: ignore[no-untyped-call]


def put(digest: str, blocks: Iterable[bytes]) -> None:
    """Store an archive's bytes, unless they are there.

    The number of blocks is written last: an archive of which a part is missing is not there.
    """
    count, _ = _stored(digest)
    if not count:
        for block in _joined(blocks):
            _internal_kv_put(_key(digest, count), block, namespace=NAMESPACE)
            count += 1
    _internal_kv_put(COUNTS + digest, f"{count} {int(time.time())}", namespace=NAMESPACE)


def take(shipped: Shipped, folder: Path) -> Path:
    """Write an archive and its signature below a folder, and return the archive's path.

    Raises:
        UnreadableError: the store does not have it, or has other bytes.
        UsageError: the folder cannot be written to.
    """
    path = folder / shipped.digest / shipped.file
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomic(path, _checked(shipped))
    if shipped.signature is not None:
        write_atomic(signature_path(path), bytes.fromhex(shipped.signature))
    return path


def keep_only(digests: Collection[str]) -> None:
    """Delete the other archives from the store, except those that were put a short time ago."""
    for key in _internal_kv_list(COUNTS, namespace=NAMESPACE) or ():
        digest = key.decode().removeprefix(COUNTS)
        if digest not in digests and _stored(digest)[1] + KEPT_SECONDS < time.time():
            _internal_kv_del(COUNTS + digest, namespace=NAMESPACE)
            _internal_kv_del(f"{BLOCKS}{digest}/", del_by_prefix=True, namespace=NAMESPACE)


def _stored(digest: str) -> tuple[int, int]:
    """Return how many blocks an archive has in the store, and when it was put there last."""
    found = _internal_kv_get(COUNTS + digest, namespace=NAMESPACE)
    count, _, seconds = (found or b"0 0").decode().partition(" ")
    return int(count), int(seconds)


def _key(digest: str, number: int) -> str:
    return f"{BLOCKS}{digest}/{number:06d}"


def _joined(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield larger blocks, of which the store needs fewer."""
    block = bytearray()
    for part in blocks:
        block += part
        if len(block) >= BLOCK_BYTES:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _checked(shipped: Shipped) -> Iterator[bytes]:
    """Yield an archive's blocks; raise at the end if they are not those that were put."""
    count, _ = _stored(shipped.digest)
    if not count:
        raise UnreadableError(
            f"'{shipped.file}' is not in the cluster's store any more: deploy it again"
        )
    digest = hashlib.sha256()
    for number in range(count):
        block = _internal_kv_get(_key(shipped.digest, number), namespace=NAMESPACE) or b""
        digest.update(block)
        yield block
    if digest.hexdigest() != shipped.digest:
        raise UnreadableError(
            f"'{shipped.file}' has changed in the cluster's store: expected SHA-256 "
            f"{shipped.digest}, got {digest.hexdigest()}; deploy it again"
        )

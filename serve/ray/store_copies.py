"""The archives of stores, fetched once where an application is built, and sent from there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.errors import UsageError
from torchship.serve.errors import StoreError
from torchship.serve.settings import Settings
from torchship.serve.stores.addresses import Address
from torchship.serve.stores.cache import Cache, default_folder
from torchship.serve.stores.mirror import Mirror
from torchship.serve.stores.opening import open_store


@contextmanager
def fetched(
    addresses: Sequence[Address], settings: Settings, keys: Sequence[Ed25519PublicKey]
) -> Iterator[list[Path]]:
    """Yield a folder for each address, with the archives that are there now.

    Raises:
        StoreError: a store cannot be read, or an archive in it cannot be fetched.
        UsageError: a store has no archives.
    """
    if not addresses:
        yield []
        return
    parent = settings.store_cache or default_folder()
    cache = Cache(parent.absolute(), settings.store_cache_bytes)
    run = cache.new_run()
    try:
        folders = []
        for number, address in enumerate(addresses):
            folder = run.folder / str(number)
            folder.mkdir()
            mirror = Mirror(
                *(address, folder, cache), partial(open_store, address, settings.store_seconds)
            )
            mirror.keys = keys
            problems = mirror.sync()
            if problems:
                raise StoreError("; ".join(problems))
            if not mirror.has_archives:
                raise UsageError(f"{address} has no archives: expected files *.pt")
            folders.append(folder)
        yield folders
    finally:
        run.close()

"""Opens a store by its address."""

from __future__ import annotations

from torchship.serve.stores.addresses import HTTP, Address
from torchship.serve.stores.store import Store

SECONDS = 30.0
"""For which a store may send nothing."""


def open_store(address: Address, seconds: float = SECONDS) -> Store:
    """Return the store at an address; the library of its kind is loaded only here.

    Raises:
        StoreError: the library is missing, or refuses the address or the credentials.
    """
    if address.scheme in HTTP:
        from torchship.serve.stores.http_store import HttpStore

        return HttpStore(address, seconds)
    from torchship.serve.stores.fsspec_store import FsspecStore

    return FsspecStore(address, seconds)

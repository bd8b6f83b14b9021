"""One archive on its way from a store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.errors import ArchiveError, UsageError
from torchship.script.format.signing import signature_path
from torchship.script.runtime.archive import open_archive
from torchship.serve.stores.addresses import Address
from torchship.serve.stores.cache import digest_of
from torchship.serve.stores.fetching import fetch
from torchship.serve.stores.store import Progress, RemoteFile, Store
from torchship.serve.stores.transfer import Transfer, transfer_of


class Download:
    """One archive on its way from a store, in a hidden folder until it is checked."""

    def __init__(self, name: str, folder: Path, temporary: Path) -> None:
        """Take its name in the store, and the folders."""
        self.name = name
        self._target = folder / name
        self._file = temporary / Path(name).name
        self._signed = self._changed = False

    def receive(
        self,
        store: Store,
        where: Address,
        archive: RemoteFile,
        signature: RemoteFile | None,
        told: Progress,
    ) -> None:
        """Fetch it, and its signature if there is one.

        Raises:
            StoreError: the store does not send it.
            OSError: the disk refuses.
        """
        self._file.parent.mkdir()
        fetch(store, where, archive, self._file, told)
        if signature is not None:
            fetch(store, where, signature, signature_path(self._file))
        self._signed = signature is not None

    def check(self, keys: Sequence[Ed25519PublicKey], force: bool) -> None:
        """Check the archive, and that nothing else has its name.

        Raises:
            ArchiveError: it is damaged, or not signed by one of the keys.
            UsageError: something else has its name, and `force` is False.
        """
        self._archive = open_archive(self._file, keys)
        self._archive.require_manifest()
        pairs = [(self._file, self._target)]
        if self._signed:
            pairs.append((signature_path(self._file), signature_path(self._target)))
        for new, old in pairs:
            if os.path.lexists(old) and (same := _digest(old)) != digest_of(new):
                if not force or same is None:
                    raise UsageError(
                        f"'{old}' is there with another content: --force replaces a file"
                    )
                self._changed = True
            elif not os.path.lexists(old):
                self._changed = True

    def place(self, where: Address) -> Transfer:
        """Give it its name; the signature first, as in `push`.

        Raises:
            OSError: the disk refuses.
        """
        if self._changed:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            replaced = _digest(self._target) != self._archive.digest
            if self._signed:
                os.replace(signature_path(self._file), signature_path(self._target))
            os.replace(self._file, self._target)
            if not self._signed and replaced:
                signature_path(self._target).unlink(missing_ok=True)
        address = where if where.is_archive else where.of(self.name)
        return transfer_of(self._target, address, self._archive, self._signed, self._changed)


def _digest(path: Path) -> str | None:
    """Return the digest of a file; None if it is not one that can be read."""
    try:
        return digest_of(path)
    except ArchiveError:
        return None

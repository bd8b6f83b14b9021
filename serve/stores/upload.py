"""One archive on its way to a store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.errors import UsageError
from torchship.script.format.file_content import read_blocks
from torchship.script.format.signing import LENGTH, signature_path
from torchship.script.runtime.archive import open_archive
from torchship.serve.errors import StoreError
from torchship.serve.stores.addresses import SIGNATURE, Address
from torchship.serve.stores.cache import digest_of
from torchship.serve.stores.fetching import fetch
from torchship.serve.stores.store import Progress, Store
from torchship.serve.stores.transfer import Transfer, transfer_of


class Upload:
    """One archive on its way to a store: a copy that nobody changes, and its signature."""

    def __init__(
        self, path: Path, name: str, folder: Path, keys: Sequence[Ed25519PublicKey]
    ) -> None:
        """Check the archive.

        Raises:
            ArchiveError: it is damaged, or not signed by one of the keys.
            UsageError: its signature is none, or the copy cannot be written.
        """
        self.path, self.name = path, name
        signature = signature_path(path)
        self._signature = b"".join(read_blocks(signature)) if os.path.lexists(signature) else None
        if self._signature is not None and len(self._signature) != LENGTH:
            raise UsageError(
                f"'{signature}' is not an Ed25519 signature: expected {LENGTH} bytes, got "
                f"{len(self._signature)}; sign the archive again, or remove the file"
            )
        self._archive = open_archive(path, keys)
        self._archive.require_manifest()
        self.size = self._archive.size
        self._folder = folder
        self._sends: list[tuple[str, Path]] = []
        self._stale = False
        self._was_signed = False
        try:
            folder.mkdir()
            with (folder / "archive").open("wb") as copy:
                copy.writelines(self._archive.blocks())
            (folder / "signature").write_bytes(self._signature or b"")
        except OSError as error:
            raise UsageError(f"cannot write to '{folder}': {error.strerror}") from None

    def compare(self, store: Store, where: Address, force: bool) -> None:
        """Find out what has to be sent.

        Raises:
            UsageError: something else has its name, and `force` is False.
        """
        archive, signature = (self._found(store, where, name) for name in self._parts())
        same = archive == self._archive.digest
        if archive is not None and not same and not force:
            raise UsageError(
                f"{where}: {self.name} is there with another content, sha256:{archive}: "
                "--force replaces it"
            )
        own = digest_of(self._folder / "signature") if self._signature is not None else None
        if own is not None and signature not in (None, own) and not force:
            raise UsageError(
                f"{where}: {self.name}{SIGNATURE} is there with another content: "
                "--force replaces it"
            )
        # The signature first: until both are there, a server keeps what it has.
        if own is not None and signature != own:
            self._sends.append((self.name + SIGNATURE, self._folder / "signature"))
        if not same:
            self._sends.append((self.name, self._folder / "archive"))
        self._stale = signature is not None and own is None and not same
        self._was_signed = signature is not None and own is None and same

    def _parts(self) -> tuple[str, str]:
        return self.name, self.name + SIGNATURE

    def _found(self, store: Store, where: Address, name: str) -> str | None:
        """Return the digest of what has a name in the store; a note if it is too large."""
        file = store.find(name)
        if file is None:
            return None
        expected = self.size if name == self.name else LENGTH
        if file.size is not None and file.size != expected:
            return f"unknown ({file.size} bytes)"
        target = self._folder / "found"
        try:
            fetch(store, where, file, target)
            return digest_of(target)
        except OSError as error:
            raise UsageError(f"cannot write to '{self._folder}': {error.strerror}") from None
        finally:
            target.unlink(missing_ok=True)

    def send(self, store: Store, where: Address, told: Progress) -> None:
        """Upload what is not there yet.

        Raises:
            StoreError: the store does not take it.
        """
        for name, source in self._sends:
            store.put(source, name, told)
            now = store.find(name)
            if now is None or now.size not in (None, source.stat().st_size):
                raise StoreError(f"{where}: {name} was uploaded, and is not there as it should be")
        if self._stale:
            store.remove(self.name + SIGNATURE)

    def result(self, where: Address) -> Transfer:
        """Return what became of it."""
        address = where if where.is_archive else where.of(self.name)
        signed = self._signature is not None or self._was_signed
        return transfer_of(self.path, address, self._archive, signed, bool(self._sends))

"""What became of an archive that went to or came from a store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torchship.script.runtime.archive import Archive
from torchship.serve.stores.addresses import Address


@dataclass(frozen=True)
class Transfer:
    """What became of one archive."""

    archive: str
    """The local file."""
    address: str
    model: str
    version: str
    digest: str
    bytes: int
    signed: bool
    changed: bool
    """Whether anything was written."""

    def __str__(self) -> str:
        words = [f"{self.bytes:,} bytes", *(["signed"] if self.signed else [])]
        words += [] if self.changed else ["it was there already"]
        return f"{', '.join(words)}, sha256:{self.digest}"


def transfer_of(
    path: Path, address: Address, archive: Archive, signed: bool, changed: bool
) -> Transfer:
    """Return what became of an archive that was checked."""
    manifest = archive.require_manifest()
    return Transfer(
        archive=str(path),
        address=str(address),
        model=manifest.name,
        version=manifest.version,
        digest=archive.digest,
        bytes=archive.size,
        signed=signed,
        changed=changed,
    )

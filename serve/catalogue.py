"""The archives of a repository: the files as they are, and what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.archive import open_archive
from torchship.script.errors import TorchShipError
from torchship.serve.discovery import Found, scan
from torchship.serve.engine import Engine

IndexState = Literal["LOADING", "READY", "UNAVAILABLE"]

STATES: dict[str, IndexState] = {
    "waiting": "LOADING",
    "live": "READY",
    "failed": "UNAVAILABLE",
    "unloaded": "UNAVAILABLE",
}


@dataclass(eq=False)
class Entry:
    """An archive and what became of it.

    `reason` says why the file as it is now failed. An entry may be live all the same, with what
    the file was before.
    """

    found: Found
    state: Literal["waiting", "live", "failed", "unloaded"] = "waiting"
    initial: bool = False
    """Whether the server is ready only with it."""
    reason: str = ""
    told: str = ""
    """The reason as clients may have it, if that is another."""
    foreseen: bool = True
    key: tuple[str, str] | None = None
    """Name and version, once the folders or the manifest have said them."""
    engine: Engine | None = None
    changed: bool = True
    """Whether the file is not the one that was looked into last."""

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.found.path

    @property
    def is_missing(self) -> bool:
        """Whether it stands for a model that was asked for by name, and of which no file is."""
        return self.key is not None and not self.key[1]

    @property
    def public_reason(self) -> str:
        """The reason without folders, and without what was not foreseen: the log has those."""
        if self.state == "unloaded":
            return "not loaded"
        if not self.foreseen:
            return "internal error while loading"
        return (self.told or self.reason).replace(str(self.path), self.path.name)

    def public(self) -> IndexEntry:
        """Return what a client may know of it."""
        name, version = self.key or (self.path.stem, "")
        return IndexEntry(name, version, STATES[self.state], self.public_reason)


@dataclass(frozen=True)
class IndexEntry:
    """What a client may know of an archive; `version` is empty while the manifest is unread."""

    name: str
    version: str
    state: IndexState
    reason: str


class Catalogue:
    """An entry for each file; names from clients are compared with its keys, never made paths."""

    def __init__(
        self, paths: Sequence[Path], keys: Sequence[Ed25519PublicKey], only_known: bool
    ) -> None:
        """Find what is there; with `only_known`, to be loaded by name and not by itself."""
        self._paths = list(paths)
        self._folders = [path for path in paths if path.is_dir()]
        self._keys = keys
        self._only_known = only_known
        self.entries = [self._entry(found) for found in scan(paths)]
        for entry in self.entries:
            entry.initial = not only_known

    def _entry(self, found: Found) -> Entry:
        return Entry(found, "unloaded" if self._only_known else "waiting", key=found.key)

    def trust(self, keys: Sequence[Ed25519PublicKey]) -> None:
        """Read only what one of these keys signed."""
        self._keys = keys

    def lost_folder(self) -> Path | None:
        """Return a folder that was there at the start and is not there now."""
        return next((folder for folder in self._folders if not folder.is_dir()), None)

    async def look(self) -> list[Entry]:
        """Bring the entries up to the files as they are; return the live ones without a file."""
        known = {entry.path: entry for entry in self.entries}
        entries = []
        for found in await asyncio.to_thread(scan, self._paths):
            if not found.there:
                continue
            entry = known.get(found.path) or self._entry(found)
            if entry.found != found:
                entry.found, entry.changed = found, True
            if self._only_known and entry.changed and entry.state == "unloaded":
                await self._identify(entry)
            entries.append(entry)
        left = [entry for entry in self.entries if entry not in entries]
        gone = [entry for entry in left if entry.state == "live"]
        self.entries = entries + gone + [entry for entry in left if entry.is_missing]
        return gone

    async def _identify(self, entry: Entry) -> None:
        """Learn which model a file is, where no folder says it."""
        entry.changed = False
        if entry.found.key is None:
            try:
                archive = await asyncio.to_thread(open_archive, entry.path, self._keys)
                entry.key = archive.vouched.name, archive.vouched.version
            except TorchShipError:
                entry.key = None  # loading it will say why

    def of_name(self, name: str, gone: Collection[Entry]) -> list[Entry]:
        """Return a model's files; one that could not be read is known by its own name."""
        return [
            entry
            for entry in self.entries
            if (entry.key[0] if entry.key else entry.path.stem) == name
            and entry not in gone
            and not entry.is_missing
        ]

    def add_missing(self, name: str) -> Entry:
        """Return a new entry that stands for a model of which there is no file."""
        self.entries.append(Entry(Found(Path(name), None, (None,)), key=(name, "")))
        return self.entries[-1]

    def missing(self, name: str) -> list[Entry]:
        """Return the entries that stand for a model of which there was no file."""
        return [entry for entry in self.entries if entry.key == (name, "")]

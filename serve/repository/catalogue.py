"""The archives of a repository: an entry for each file, with its state."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.errors import OutOfMemoryError, TorchShipError, UnreadableError
from torchship.serve.engine.engine import Engine
from torchship.serve.repository.discovery import (
    DiscoveredArchive,
    FileState,
    look_at,
    printable,
    scan,
    unique,
)
from torchship.serve.repository.loading import STALLED_SECONDS, ArchiveLoad
from torchship.serve.system.daemon_threads import on_thread

log = logging.getLogger(__name__)

MOST_LOOKS = 12
"""The largest number of scans between two attempts to load a file after a temporary failure."""

IndexState = Literal["LOADING", "READY", "UNAVAILABLE"]

STATES: dict[str, IndexState] = {
    "waiting": "LOADING",
    "live": "READY",
    "failed": "UNAVAILABLE",
    "unloaded": "UNAVAILABLE",
}


@dataclass(eq=False)
class Entry:
    """An archive and its state.

    `reason` says why the present file failed. The entry can still be live, with the archive that
    the file held before.
    """

    found: DiscoveredArchive
    state: Literal["waiting", "live", "failed", "unloaded"] = "waiting"
    initial: bool = False
    """Whether the server is not ready without it."""
    reason: str = ""
    public_message: str = ""
    """The reason in a form for clients, if it differs."""
    is_user_error: bool = True
    out: bool = False
    """Whether it was taken out of service."""
    key: tuple[str, str] | None = None
    """Name and version, once they are known from the folders or the manifest."""
    engine: Engine | None = None
    changed: bool = True
    """Whether the file has changed since it was last read."""
    gone: bool = False
    """Whether its file was removed while it is live; another file may yet replace it."""
    load: ArchiveLoad | None = None
    """The load that is running."""
    batch: object = None
    """The same object for entries whose loading began together."""
    taken_key: tuple[str, str] | None = None
    """Name and version, if it failed because another file holds the same model."""
    address: str = ""
    """Where in a store its file comes from; "" for a file of this machine."""
    temporary_failures: int = 0
    """How many times in a row the unchanged file failed for a temporary reason."""
    scans_to_skip: int = 0
    """How many scans are skipped before the next attempt."""

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.found.path

    @property
    def printable_path(self) -> str:
        """The path of the file, or its address in a store, safe to print on one line."""
        return printable(self.address or str(self.path))

    def with_address(self, text: str) -> str:
        """Return printable text with the file's address in place of its local path."""
        return text.replace(printable(str(self.path)), self.printable_path)

    @property
    def is_missing(self) -> bool:
        """Whether it stands for a model that was requested by name but has no file."""
        return self.key is not None and not self.key[1]

    @property
    def public_reason(self) -> str:
        """The reason for clients: without folders and internal errors, which only the log has."""
        if self.state == "unloaded":
            return "not loaded"
        if self.load is not None and (self.state == "waiting" or self.load.stalled):
            return self.load.activity
        if not self.is_user_error:
            return "internal error while loading"
        return (self.public_message or self.reason).replace(
            self.printable_path, printable(self.path.name)
        )

    def public(self) -> IndexEntry:
        """Return the entry as clients see it."""
        name, version = self.key or (printable(self.path.stem), "")
        digest = "" if self.engine is None else self.engine.digest
        return IndexEntry(name, version, STATES[self.state], self.public_reason, digest)

    def mark_failed(
        self, reason: str, public_message: str, is_user_error: bool, temporary: bool, out: bool
    ) -> None:
        """Record why the present file was refused, and when to try it again.

        After a temporary failure it is tried at the next scan, and then with growing pauses.
        """
        self.reason, self.public_message = reason, public_message
        self.is_user_error, self.out = is_user_error, out
        self.temporary_failures = self.temporary_failures + 1 if temporary else 0
        self.scans_to_skip = min(1 << (self.temporary_failures - 1), MOST_LOOKS) if temporary else 0
        if self.engine is None:
            self.state = "failed"

    def mark_good(self) -> None:
        """Record that the present file is good."""
        self.reason, self.public_message, self.is_user_error, self.out = "", "", True, False
        self.temporary_failures, self.scans_to_skip, self.taken_key = 0, 0, None

    def due(self) -> bool:
        """Count a scan; return whether to try the unchanged file again."""
        self.scans_to_skip = max(0, self.scans_to_skip - 1)
        return self.temporary_failures > 0 and self.scans_to_skip == 0


@dataclass(frozen=True)
class IndexEntry:
    """An archive as clients see it; `version` is empty until the manifest is read."""

    name: str
    version: str
    state: IndexState
    reason: str
    sha256: str = ""
    """The digest of what answers, which may be of other content than the file has by now."""


class Catalogue:
    """An entry for each file; clients' names are compared with keys, never used as paths."""

    def __init__(
        self,
        paths: Sequence[Path],
        keys: Sequence[Ed25519PublicKey],
        only_known: bool,
        loads: int,
        addresses: Mapping[Path, str] = MappingProxyType({}),
    ) -> None:
        """Find the files; with `only_known`, they are loaded only by name.

        `loads` is how many files are loaded at the same time; `addresses` says of the paths that
        are copies of a store's folder, which one.
        """
        self._addresses = addresses
        self._roots = {path: path.is_dir() for path in paths}
        self._looks: dict[Path, asyncio.Future[FileState]] = {}
        self._problems: set[str] = set()
        self._keys = keys
        self._only_known = only_known
        self._turns = asyncio.Semaphore(loads)
        self._lock = asyncio.Lock()
        self.entries = [self._entry(found) for found in scan(paths)]
        for entry in self.entries:
            entry.initial = not only_known

    def _entry(self, found: DiscoveredArchive) -> Entry:
        address = next(
            (
                f"{address}/{found.path.relative_to(root).as_posix()}"
                for root, address in self._addresses.items()
                if root in found.path.parents
            ),
            "",
        )
        state: Literal["unloaded", "waiting"] = "unloaded" if self._only_known else "waiting"
        return Entry(found, state, key=found.key, address=address)

    def trust(self, keys: Sequence[Ed25519PublicKey]) -> None:
        """From now on, accept only archives that one of these keys signed."""
        self._keys = keys

    async def look(self) -> list[Entry]:
        """Update the entries from the files; return the live entries whose files were removed.

        An entry is removed only if its file certainly no longer exists. A folder that cannot be
        listed, or a disk that does not answer, must not unload a model.
        """
        async with self._lock:
            gone = await self._update()
            if self._only_known:
                unknown = [e for e in self.entries if e.changed and e.state == "unloaded"]
                await self.work_on(unknown, self._identify)
            return gone

    async def _update(self) -> list[Entry]:
        states = await self._look()
        known = {entry.path: entry for entry in self.entries if not entry.is_missing}
        entries: dict[Entry, None] = {}
        for found in unique([found for look in states for found in look.found]):
            if not found.there and found.path in self._roots:
                continue  # a path from the command line, not one from a listing
            entry = known.get(found.path) or self._entry(found)
            entry.changed = entry.changed or entry.found != found
            entry.found, entry.gone = found, False
            entries[entry] = None
        gone = {path for look in states for path in look.gone}
        newly = []
        for entry in self.entries:
            if entry in entries:
                continue
            if entry.path not in gone or entry.state == "live":
                entries[entry] = None
                if entry.path in gone and not entry.gone:
                    entry.gone = True
                    newly.append(entry)
            elif entry.load is not None:
                entry.load.cancel()
        self.entries = list(entries)
        return newly

    async def _look(self) -> list[FileState]:
        """Scan each given path; leave out those whose disks do not answer in time."""
        known = [entry.found for entry in self.entries if not entry.is_missing]
        for root, is_folder in self._roots.items():
            if root not in self._looks:
                below = [f for f in known if f.path == root or root in f.path.parents]
                scan_root = partial(look_at, root, is_folder, below)
                self._looks[root] = asyncio.ensure_future(on_thread(scan_root, daemon=True))
        if self._looks:
            await asyncio.wait(self._looks.values(), timeout=STALLED_SECONDS)
        done = {root: look for root, look in self._looks.items() if look.done()}
        problems = [f"'{root}' does not answer" for root in self._looks if root not in done]
        for root in done:
            del self._looks[root]
        states = [look.result() for look in done.values()]
        problems += [problem for look in states for problem in look.problems]
        for problem in sorted(set(problems) - self._problems):
            log.warning("%s: what is live from there stays live", printable(problem))
        self._problems = set(problems)
        return states

    async def _identify(self, entry: Entry, load: ArchiveLoad) -> None:
        """Read a file's manifest to learn its model, if its folders do not say it."""
        entry.changed = False
        if entry.found.key is None:
            try:
                content = await load.read(entry.path, self._keys)
                manifest = await load.identify(entry.path, content)
                entry.key = manifest.name, manifest.version
            except (UnreadableError, OutOfMemoryError):
                entry.changed = True
            except TorchShipError:
                entry.key = None  # loading it will report the error

    async def work_on(
        self,
        entries: Sequence[Entry],
        do: Callable[[Entry, ArchiveLoad], Coroutine[None, None, None]],
    ) -> None:
        """Run `do` for each entry, small files first; return when all have ended or stalled.

        Several run at the same time. A file whose disk does not answer is not waited for.
        """
        for entry in sorted(entries, key=lambda entry: entry.found.size):
            if entry.load is not None:
                if not entry.changed:
                    continue  # its running load reads the same file
                entry.load.cancel()
            load = ArchiveLoad(self._turns)
            entry.load = load
            load.begin(do(entry, load), partial(self._ended, entry, load))
        for entry in entries:
            if entry.load is not None:
                await entry.load.settled()

    def _ended(self, entry: Entry, load: ArchiveLoad) -> None:
        if entry.load is load:
            entry.load = None

    def of_name(self, name: str) -> list[Entry]:
        """Return the entries of a model; a file that could not be read counts by its file name."""
        return [
            entry
            for entry in self.entries
            if (entry.key[0] if entry.key else entry.path.stem) == name
            and not entry.gone
            and not entry.is_missing
        ]

    def add_missing(self, name: str) -> Entry:
        """Return a new entry for a model that has no file."""
        self.entries.append(Entry(DiscoveredArchive(Path(name), None, (None,)), key=(name, "")))
        return self.entries[-1]

    def missing(self, name: str) -> list[Entry]:
        """Return the entries that `add_missing` made for a model."""
        return [entry for entry in self.entries if entry.key == (name, "")]

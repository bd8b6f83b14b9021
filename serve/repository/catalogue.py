"""The archives of a repository: the files as they are, and what became of each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
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
"""Between two tries of a file that could not be read."""

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

    found: DiscoveredArchive
    state: Literal["waiting", "live", "failed", "unloaded"] = "waiting"
    initial: bool = False
    """Whether the server is ready only with it."""
    reason: str = ""
    public_message: str = ""
    """The reason as clients may have it, if that is another."""
    is_user_error: bool = True
    out: bool = False
    """Whether it is out of service, whatever its file holds."""
    key: tuple[str, str] | None = None
    """Name and version, once the folders or the manifest have said them."""
    engine: Engine | None = None
    changed: bool = True
    """Whether the file is not the one that was looked into last."""
    gone: bool = False
    """Whether it is live without a file, until it is known that no other file is its successor."""
    work: ArchiveLoad | None = None
    """What is being done with the file now."""
    batch: object = None
    """The same for entries whose loading began together."""
    rivalled: tuple[str, str] | None = None
    """Name and version, if it failed because another file is the same model."""
    passing: int = 0
    """How often it failed, without a change between, in a way that may pass."""
    looks: int = 0
    """How many looks shall pass before it is tried again."""

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.found.path

    @property
    def shown(self) -> str:
        """Where the file is, as one line can show it."""
        return printable(str(self.path))

    @property
    def is_missing(self) -> bool:
        """Whether it stands for a model that was asked for by name, and of which no file is."""
        return self.key is not None and not self.key[1]

    @property
    def public_reason(self) -> str:
        """The reason without folders, and without what no user could cause: the log has those."""
        if self.state == "unloaded":
            return "not loaded"
        if self.work is not None and (self.state == "waiting" or self.work.stalled):
            return self.work.doing
        if not self.is_user_error:
            return "internal error while loading"
        return (self.public_message or self.reason).replace(self.shown, printable(self.path.name))

    def public(self) -> IndexEntry:
        """Return what a client may know of it."""
        name, version = self.key or (printable(self.path.stem), "")
        return IndexEntry(name, version, STATES[self.state], self.public_reason)

    def failed(
        self, reason: str, public_message: str, is_user_error: bool, passing: bool, out: bool
    ) -> None:
        """Note why the file as it is now was refused, and when it is to be tried again.

        What may pass is tried at the next look, and more and more seldom as it goes on.
        """
        self.reason, self.public_message = reason, public_message
        self.is_user_error, self.out = is_user_error, out
        self.passing = self.passing + 1 if passing else 0
        self.looks = min(1 << (self.passing - 1), MOST_LOOKS) if passing else 0
        if self.engine is None:
            self.state = "failed"

    def well(self) -> None:
        """Note that nothing is wrong with the file as it is now."""
        self.reason, self.public_message, self.is_user_error, self.out = "", "", True, False
        self.passing, self.looks, self.rivalled = 0, 0, None

    def due(self) -> bool:
        """Count a look; return whether the file is to be tried again though it has not changed."""
        self.looks = max(0, self.looks - 1)
        return self.passing > 0 and self.looks == 0


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
        self,
        paths: Sequence[Path],
        keys: Sequence[Ed25519PublicKey],
        only_known: bool,
        loads: int,
    ) -> None:
        """Find what is there; with `only_known`, to be loaded by name and not by itself.

        `loads` is how many files are worked on at the same time.
        """
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
        return Entry(found, "unloaded" if self._only_known else "waiting", key=found.key)

    def trust(self, keys: Sequence[Ed25519PublicKey]) -> None:
        """Read only what one of these keys signed."""
        self._keys = keys

    async def look(self) -> list[Entry]:
        """Bring the entries up to the files as they are; return the live ones that are gone now.

        An entry whose file is not found stays, unless the file is certainly not there any more: a
        folder that cannot be listed, or a disk that does not answer, is no wish to unload.
        """
        async with self._lock:
            gone = await self._update()
            if self._only_known:
                unknown = [e for e in self.entries if e.changed and e.state == "unloaded"]
                await self.work_on(unknown, self._identify)
            return gone

    async def _update(self) -> list[Entry]:
        seen = await self._look()
        known = {entry.path: entry for entry in self.entries if not entry.is_missing}
        entries: dict[Entry, None] = {}
        for found in unique([found for look in seen for found in look.found]):
            if not found.there and found.path in self._roots:
                continue  # it was named, not listed
            entry = known.get(found.path) or self._entry(found)
            entry.changed = entry.changed or entry.found != found
            entry.found, entry.gone = found, False
            entries[entry] = None
        gone = {path for look in seen for path in look.gone}
        newly = []
        for entry in self.entries:
            if entry in entries:
                continue
            if entry.path not in gone or entry.state == "live":
                entries[entry] = None
                if entry.path in gone and not entry.gone:
                    entry.gone = True
                    newly.append(entry)
            elif entry.work is not None:
                entry.work.give_up()
        self.entries = list(entries)
        return newly

    async def _look(self) -> list[FileState]:
        """Look at each path that was given; without those whose disks do not answer."""
        known = [entry.found for entry in self.entries if not entry.is_missing]
        for root, is_folder in self._roots.items():
            if root not in self._looks:
                below = [f for f in known if f.path == root or root in f.path.parents]
                work = partial(look_at, root, is_folder, below)
                self._looks[root] = asyncio.ensure_future(on_thread(work, daemon=True))
        if self._looks:
            await asyncio.wait(self._looks.values(), timeout=STALLED_SECONDS)
        done = {root: look for root, look in self._looks.items() if look.done()}
        problems = [f"'{root}' does not answer" for root in self._looks if root not in done]
        for root in done:
            del self._looks[root]
        seen = [look.result() for look in done.values()]
        problems += [problem for look in seen for problem in look.problems]
        for problem in sorted(set(problems) - self._problems):
            log.warning("%s: what is live from there stays live", printable(problem))
        self._problems = set(problems)
        return seen

    async def _identify(self, entry: Entry, work: ArchiveLoad) -> None:
        """Learn which model a file is, where no folder says it."""
        entry.changed = False
        if entry.found.key is None:
            try:
                content = await work.read(entry.path, self._keys)
                manifest = await work.identify(entry.path, content)
                entry.key = manifest.name, manifest.version
            except (UnreadableError, OutOfMemoryError):
                entry.changed = True
            except TorchShipError:
                entry.key = None  # loading it will say why

    async def work_on(
        self,
        entries: Sequence[Entry],
        do: Callable[[Entry, ArchiveLoad], Coroutine[None, None, None]],
    ) -> None:
        """Do something with each file, the small ones first; return when none is or can be busy.

        Some files are worked on at the same time. One whose disk does not answer is not waited for.
        """
        for entry in sorted(entries, key=lambda entry: entry.found.size):
            if entry.work is not None:
                if not entry.changed:
                    continue  # it goes on, with the same file
                entry.work.give_up()
            work = ArchiveLoad(self._turns)
            entry.work = work
            work.begin(do(entry, work), partial(self._ended, entry, work))
        for entry in entries:
            if entry.work is not None:
                await entry.work.rested()

    def _ended(self, entry: Entry, work: ArchiveLoad) -> None:
        if entry.work is work:
            entry.work = None

    def of_name(self, name: str) -> list[Entry]:
        """Return a model's files; one that could not be read is known by its own name."""
        return [
            entry
            for entry in self.entries
            if (entry.key[0] if entry.key else entry.path.stem) == name
            and not entry.gone
            and not entry.is_missing
        ]

    def add_missing(self, name: str) -> Entry:
        """Return a new entry that stands for a model of which there is no file."""
        self.entries.append(Entry(DiscoveredArchive(Path(name), None, (None,)), key=(name, "")))
        return self.entries[-1]

    def missing(self, name: str) -> list[Entry]:
        """Return the entries that stand for a model of which there was no file."""
        return [entry for entry in self.entries if entry.key == (name, "")]

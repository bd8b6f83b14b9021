"""Which models and versions are live: archives found, loaded, proved, listed."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.archive import open_archive
from torchship.script.errors import ArchiveError, TorchShipError, UsageError
from torchship.serve.engine import Engine, Limits
from torchship.serve.errors import NotReadyError, UnknownModelError

log = logging.getLogger(__name__)

IndexState = Literal["LOADING", "READY", "UNAVAILABLE"]

STATES: dict[str, IndexState] = {"waiting": "LOADING", "live": "READY", "failed": "UNAVAILABLE"}


def find_archives(paths: Sequence[Path]) -> list[Path]:
    """Return the archives: the files given, and the `*.pt` files in the folders given.

    Raises:
        UsageError: a path is not there, or there is no archive at all.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise UsageError(f"'{path}' is not there: expected an archive or a folder of archives")
        for file in sorted(path.glob("*.pt")) if path.is_dir() else [path]:
            found.setdefault(file.resolve(), file)
    if not found:
        places = ", ".join(f"'{path}'" for path in paths) or "nothing given"
        raise UsageError(f"no archives to serve: expected files, or folders of *.pt, got {places}")
    return list(found.values())


def version_order(version: str) -> tuple[tuple[bool, int, str], ...]:
    """Return a sort key by which version `10` comes after `9`, and `1.10` after `1.9`."""
    parts = (part for part in re.split(r"(\d+)|[._-]", version) if part)
    return tuple((p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts)


@dataclass
class Entry:
    """An archive and what became of it; `reason` says why one failed."""

    path: Path
    state: Literal["waiting", "live", "failed"] = "waiting"
    reason: str = ""
    foreseen: bool = True
    engine: Engine | None = None

    @property
    def key(self) -> tuple[str, str] | None:
        """Name and version, once the manifest was read."""
        if self.engine is None:
            return None
        return self.engine.manifest.name, self.engine.manifest.version

    @property
    def public_reason(self) -> str:
        """The reason without folders, and without what was not foreseen: the log has those."""
        if not self.foreseen:
            return "internal error while loading"
        return self.reason.replace(str(self.path), self.path.name)


@dataclass(frozen=True)
class IndexEntry:
    """What a client may know of an archive; `version` is empty while the manifest is unread."""

    name: str
    version: str
    state: IndexState
    reason: str


class Repository:
    """The archives of one server; used from its event loop only."""

    def __init__(
        self,
        files: Sequence[Path],
        keys: Sequence[Ed25519PublicKey] = (),
        limits: Limits | None = None,
    ) -> None:
        self.entries = [Entry(file) for file in files]
        self._keys = keys
        self._limits = limits
        self._live: dict[str, dict[str, Engine]] = {}
        self._closed = False

    @property
    def ready(self) -> bool:
        """Whether every archive reproduced its golden cases, and the server is to go on."""
        return not self._closed and all(entry.state == "live" for entry in self.entries)

    async def load(self) -> None:
        """Load and prove each archive in turn; a good one is live at once."""
        for entry in self.entries:
            try:
                await self._load(entry)
            except TorchShipError as error:
                self._fail(entry, str(error))
            except Exception as error:
                log.exception("loading %s", entry.path)
                entry.foreseen = False
                self._fail(entry, f"{type(error).__name__}: {error}")

    async def _load(self, entry: Entry) -> None:
        archive = await asyncio.to_thread(open_archive, entry.path, self._keys)
        name, version = archive.vouched.name, archive.vouched.version
        for other in self.entries:
            if other.key == (name, version) and other.state == "live":
                raise ArchiveError(
                    f"model '{name}' version '{version}' is in '{other.path.name}' already"
                )
        entry.engine = Engine(archive, self._limits)
        await entry.engine.start()
        entry.state = "live"
        versions = self._live.get(name, {}) | {version: entry.engine}
        newest_first = sorted(versions, key=version_order, reverse=True)
        self._live[name] = {known: versions[known] for known in newest_first}

    def _fail(self, entry: Entry, reason: str) -> None:
        entry.state, entry.reason = "failed", " ".join(reason.split())
        if entry.engine is not None:
            entry.engine.close()

    def find(self, name: str, version: str | None = None) -> Engine:
        """Return the engine of a live model: of that version, or of the newest.

        Raises:
            NotReadyError: it is there and not live, or archives are still being checked.
            UnknownModelError: the server does not have it.
        """
        versions = self._live.get(name, {})
        if version is None and versions:
            return next(iter(versions.values()))
        if version in versions:
            return versions[version]
        what = f"model '{name}'" + ("" if version is None else f" version '{version}'")
        for entry in self.entries:
            if entry.key == (name, version or (entry.key or ("", ""))[1]):
                why = "failed its checks" if entry.state == "failed" else "is being checked"
                raise NotReadyError(f"{what} is not ready: it {why}")
        if any(entry.state == "waiting" for entry in self.entries):
            raise NotReadyError(f"{what} is not ready: archives are still being loaded")
        known = sorted(versions or self._live)
        having = "it has" if versions else "the server has"
        raise UnknownModelError(
            f"{what} is unknown: {having} " + (", ".join(f"'{k}'" for k in known) or "none")
        )

    def versions(self, name: str) -> list[str]:
        """Return the live versions of a model, newest first."""
        return list(self._live.get(name, {}))

    def index(self) -> list[IndexEntry]:
        """Return every archive, in the order they were given, and what became of it."""
        return [
            IndexEntry(
                *(entry.key or (entry.path.stem, "")), STATES[entry.state], entry.public_reason
            )
            for entry in self.entries
        ]

    def close(self) -> None:
        """Be not ready from now on, and let the engines come to an end when nothing runs."""
        self._closed = True

    def release(self) -> None:
        """Close every engine; requests still waiting for one are cancelled."""
        self.close()
        for entry in self.entries:
            if entry.engine is not None:
                entry.engine.close()

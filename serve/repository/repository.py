"""The repository of a server: the changes that clients and polling can ask for, and the index."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal
from weakref import WeakValueDictionary

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.errors import UsageError
from torchship.script.runtime.archive import Archive
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.runnable import Runnable
from torchship.serve.errors import LoadError, ModeError, NotReadyError, UnknownModelError
from torchship.serve.protocol.tensors import short
from torchship.serve.repository.catalogue import Catalogue, Entry, IndexEntry
from torchship.serve.repository.live_models import LiveModels
from torchship.serve.system.heartbeat import Heartbeat
from torchship.serve.telemetry.records import Observer, RepositoryStatus

log = logging.getLogger(__name__)

Mode = Literal["fixed", "poll", "explicit"]


class Repository(LiveModels):
    """The archives of one server; used from its event loop only.

    Several archives are loaded at the same time; each model has one change at a time. Requests
    continue meanwhile: a new engine must reproduce its golden cases before it replaces the old
    one, which is closed when no request holds it.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        keys: Sequence[Ed25519PublicKey] = (),
        limits: Limits | None = None,
        *,
        mode: Mode = "fixed",
        load: Sequence[str] = (),
        loads: int = 2,
        quarantine: Mapping[str, str] | None = None,
        report: Callable[[str], None] = lambda line: None,
        observer: Callable[[str, str], Observer] | None = None,
        heartbeat: Heartbeat | None = None,
        load_program: Callable[[Archive, str], Runnable] = Archive.program,
        addresses: Mapping[Path, str] = MappingProxyType({}),
    ) -> None:
        """Find the archives; nothing is loaded yet.

        Args:
            paths: archives, and folders of archives.
            keys: serve only archives that one of them signed; all if empty.
            limits: for each engine.
            mode: `fixed`, `poll` or `explicit`.
            load: in explicit mode, the models to load at start.
            loads: how many archives are loaded at the same time.
            quarantine: the archives to refuse: reasons by digest.
            report: called with one line for each change after the start.
            observer: returns, by name and version, the function to call after each batch.
            heartbeat: the heartbeat of the process, for models that run on its event loop.
            load_program: makes the program of an archive, as `Engine`'s `load`.
            addresses: of the stores of which some of the paths are copies, for messages.

        Raises:
            UsageError: `load` is given in another mode.
        """
        if load and mode != "explicit":
            raise UsageError(f"setting 'load' is for explicit mode, and the mode is '{mode}'")
        catalogue = Catalogue(paths, keys, mode == "explicit", loads, addresses)
        super().__init__(
            *(catalogue, keys, limits, quarantine or {}, report, observer, heartbeat, load_program)
        )
        self.mode: Mode = mode
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._names = list(dict.fromkeys(load))

    @property
    def ready(self) -> bool:
        """Whether all archives of the start are live, and the server is not shutting down.

        A newer file that fails does not count while the older one is live; neither does a model
        that was added later.
        """
        wanted = (entry.state == "live" for entry in self.entries if entry.initial)
        return self._loaded and not self._closed and all(wanted)

    @property
    def closed(self) -> bool:
        """Whether the server is shutting down."""
        return self._closed

    def digests(self) -> dict[str, str]:
        """Return the digests of the live archives, by `name/version`."""
        return {
            f"{entry.key[0]}/{entry.key[1]}": entry.engine.digest
            for entry in self.entries
            if entry.engine is not None and entry.key is not None
        }

    def trust(self, keys: Sequence[Ed25519PublicKey]) -> None:
        """From now on, load only archives that one of these keys signed; live ones stay live."""
        self.keys = keys
        self._catalogue.trust(keys)

    @property
    def verified(self) -> int:
        """How many archives are live."""
        return sum(entry.state == "live" for entry in self.entries)

    @property
    def failed(self) -> int:
        """How many files are refused, including those whose earlier content is live."""
        return sum(bool(entry.reason) for entry in self.entries)

    async def load(self) -> None:
        """Load and verify each archive; a good one becomes live at once. Call it once.

        It returns when each is live or has failed. An archive whose disk does not answer is not
        waited for: it becomes live, or fails, when the disk answers.

        Raises:
            NotReadyError: the server is shutting down.
        """
        if self._names:
            await self._catalogue.look()
        for name in self._names:
            of_name = self._catalogue.of_name(name)
            if not of_name:
                of_name = [self._catalogue.add_missing(name)]
                self._fail(of_name[0], "it is not in the repository")
            for entry in of_name:
                entry.initial = True
        await self._load_entries(e for e in self.entries if e.initial and not e.is_missing)
        if self._closed:
            raise NotReadyError("the server is shutting down")
        self._loaded = True

    def summary(self) -> list[str]:
        """Return the result of the start as lines: what failed or is still loading, or `ready`."""
        lines = [
            f"failed: {e.printable_path}: {e.reason}" for e in self.entries if e.state == "failed"
        ]
        lines += [
            f"waiting: {e.printable_path}: {e.public_reason}"
            for e in self.entries
            if e.state == "waiting"
        ]
        live = [e.key for e in self.entries if e.state == "live" and e.key]
        return lines or ["ready: " + ", ".join(f"{name}/{version}" for name, version in live)]

    async def rescan(self) -> None:
        """Load new and changed files, and unload removed ones; poll mode does this regularly."""
        await (await self._scan())

    async def watch(self, seconds: float) -> None:
        """Rescan forever, `seconds` after the end of the last scan, without waiting for loads."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self._scan()
            except Exception:
                log.exception("looking for new archives")

    async def _scan(self) -> asyncio.Task[None]:
        """Scan the files, and return the task that loads and unloads them."""
        gone = await self._catalogue.look()
        taken = {e.key for e in self.entries if e.state == "live" and not e.gone}
        chosen = []
        for entry in self.entries:
            due, busy = entry.due(), entry.load is not None and not entry.changed
            free = entry.taken_key is not None and entry.taken_key not in taken
            if (entry.changed or due or free) and not (entry.gone or busy):
                chosen.append(entry)

        async def settle() -> None:
            await self._load_entries(chosen)
            self._unload([entry for entry in gone if entry.gone], for_good=True)

        return self._ending.spawn(settle())

    async def load_model(self, name: str) -> None:
        """Load or reload each version of a model from the present files.

        A version that is live from the same bytes is not loaded again.

        Raises:
            ModeError: the mode is not explicit.
            UnknownModelError: no file holds that model.
            LoadError: a version failed; others may be live, and those that were live still are.
            NotReadyError: the server is shutting down, or the disk does not answer.
        """
        self._must_be_explicit("load")
        async with self._change_of(name):
            await self._catalogue.look()
            chosen = self._catalogue.of_name(name)
            if not chosen:
                raise UnknownModelError(f"model {short(name)} is not in the repository")
            for entry in self._catalogue.missing(name):
                self.entries.remove(entry)
                chosen[0].initial = True
            await self._load_entries(chosen, name)
            if self._closed:
                raise NotReadyError("the server is shutting down")
            failed = [entry for entry in chosen if entry.reason]
            if failed:
                why = "; ".join(entry.public_reason for entry in failed)
                goes_on = "; what was live before stays live" if name in self._live else ""
                raise LoadError(f"model {short(name)} could not be loaded: {why}{goes_on}")
            for entry in chosen:
                if entry.load is not None:
                    raise NotReadyError(
                        f"model {short(name)} is not loaded yet: {entry.load.activity}; it will be "
                        "when it can"
                    )
            self._unload((e for e in self._of_key(name) if e.gone), for_good=True)

    async def unload_model(self, name: str) -> None:
        """Unload every version of a model; requests that hold one are still answered.

        A model that is not loaded or does not exist is not an error.

        Raises:
            ModeError: the mode is not explicit.
        """
        self._must_be_explicit("unload")
        async with self._change_of(name):
            for entry in self._catalogue.missing(name):
                self.entries.remove(entry)
            self._unload({*self._of_key(name), *self._catalogue.of_name(name)})

    def _of_key(self, name: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.key and entry.key[0] == name]

    def _must_be_explicit(self, what: str) -> None:
        if self.mode != "explicit":
            raise ModeError(
                f"cannot {what} a model: the server is in {self.mode} mode, expected explicit mode"
            )

    def _change_of(self, name: str) -> asyncio.Lock:
        """Return the lock for changes of a model."""
        return self._changing.setdefault(name, asyncio.Lock())

    async def _load_entries(self, entries: Iterable[Entry], name: str | None = None) -> None:
        """Load entries, small files first; return when all have ended or stalled.

        `name` is the model that a client asked for.
        """
        chosen, batch = list(entries), object()
        for entry in chosen:
            entry.batch = batch
        await self._catalogue.work_on(chosen, partial(self._load_entry, name=name))

    def status(self) -> RepositoryStatus:
        """Return the state for the metrics."""
        index = self.index()
        ready = [(entry.name, entry.version) for entry in index if entry.state == "READY"]
        refused = [known.public() for known in self.entries if known.reason]
        return RepositoryStatus(
            waiting_rows={key: self.find(*key).waiting_rows for key in ready},
            runtimes={key: self.find(*key).runtime for key in ready},
            verified=self.verified,
            failed=self.failed,
            refused=frozenset((entry.name, entry.version) for entry in refused),
        )

    def index(self) -> list[IndexEntry]:
        """Return every archive with its state, in the given order."""
        return [entry.public() for entry in self.entries]

"""Which models and versions are live: archives loaded, proved, replaced, let go, listed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.errors import UsageError
from torchship.serve.engine.limits import Limits
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

    Some archives are loaded at the same time, and each model has one change at a time. Requests go
    on meanwhile: a new engine has proved itself before it takes the old one's place, and the old
    one is closed when nobody holds it.
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
        pulse: Heartbeat | None = None,
    ) -> None:
        """Look at what is there; nothing is loaded yet.

        Args:
            paths: archives, and folders of archives.
            keys: serve only what one of them signed; everything when empty.
            limits: for each engine.
            mode: `fixed`, `poll` or `explicit`.
            load: in explicit mode, the models to load at start.
            loads: how many archives are loaded at the same time.
            quarantine: the archives to refuse, by their digests, and why.
            report: is told each change after the start, on one line.
            observer: gives, by name and version, who is told of each batch.
            pulse: the process's, for models that run on its event loop.

        Raises:
            UsageError: `load` is given in another mode.
        """
        if load and mode != "explicit":
            raise UsageError(f"setting 'load' is for explicit mode, and the mode is '{mode}'")
        catalogue = Catalogue(paths, keys, mode == "explicit", loads)
        super().__init__(catalogue, keys, limits, quarantine or {}, report, observer, pulse)
        self.mode: Mode = mode
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._names = list(dict.fromkeys(load))

    @property
    def ready(self) -> bool:
        """Whether all that was to be loaded at start is live, and the server is to go on.

        What goes wrong later with a newer file does not count while the older one is live, nor
        does a model that came later.
        """
        wanted = (entry.state == "live" for entry in self.entries if entry.initial)
        return self._loaded and not self._closed and all(wanted)

    @property
    def closed(self) -> bool:
        """Whether the server is to end."""
        return self._closed

    def digests(self) -> dict[str, str]:
        """Return the digests of the archives that are live, by `name/version`."""
        return {
            f"{entry.key[0]}/{entry.key[1]}": entry.engine.digest
            for entry in self.entries
            if entry.engine is not None and entry.key is not None
        }

    def trust(self, keys: Sequence[Ed25519PublicKey]) -> None:
        """Load only what one of these keys signed, from now on; what is live stays live."""
        self._keys = keys
        self._catalogue.trust(keys)

    @property
    def verified(self) -> int:
        """How many archives are live now."""
        return sum(entry.state == "live" for entry in self.entries)

    @property
    def failed(self) -> int:
        """How many files were refused as they are now, also where an older one is live."""
        return sum(bool(entry.reason) for entry in self.entries)

    async def load(self) -> None:
        """Load and prove each archive; a good one is live at once. To be called once.

        It returns when each is live or has failed. One whose disk does not answer is not waited
        for: it goes live, or fails, when it does.

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
        await self._take_all(e for e in self.entries if e.initial and not e.is_missing)
        if self._closed:
            raise NotReadyError("the server is shutting down")
        self._loaded = True

    def summary(self) -> list[str]:
        """Return what became of the start, on lines: what failed or is waited for, or `ready`."""
        lines = [f"failed: {e.shown}: {e.reason}" for e in self.entries if e.state == "failed"]
        lines += [
            f"waiting: {e.shown}: {e.public_reason}" for e in self.entries if e.state == "waiting"
        ]
        live = [e.key for e in self.entries if e.state == "live" and e.key]
        return lines or ["ready: " + ", ".join(f"{name}/{version}" for name, version in live)]

    async def rescan(self) -> None:
        """Load what is new or has changed, and unload what is gone: a look in poll mode."""
        await (await self._begin())

    async def watch(self, seconds: float) -> None:
        """Rescan forever, `seconds` after the end of the last look; no load holds up the next."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self._begin()
            except Exception:
                log.exception("looking for new archives")

    async def _begin(self) -> asyncio.Task[None]:
        """Look at the files, and return what loads and unloads them then."""
        gone = await self._catalogue.look()
        taken = {e.key for e in self.entries if e.state == "live" and not e.gone}
        chosen = []
        for entry in self.entries:
            due, busy = entry.due(), entry.work is not None and not entry.changed
            free = entry.rivalled is not None and entry.rivalled not in taken
            if (entry.changed or due or free) and not (entry.gone or busy):
                chosen.append(entry)

        async def settle() -> None:
            await self._take_all(chosen)
            self._unload([entry for entry in gone if entry.gone], for_good=True)

        return self._ending.spawn(settle())

    async def load_model(self, name: str) -> None:
        """Load a model, or load it again: each of its versions, from the files as they are now.

        A version that is live from the same bytes stays as it is.

        Raises:
            ModeError: the mode is not explicit.
            UnknownModelError: no file is of that model.
            LoadError: a version failed; others may be live, and what was live before still is.
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
            await self._take_all(chosen, name)
            if self._closed:
                raise NotReadyError("the server is shutting down")
            failed = [entry for entry in chosen if entry.reason]
            if failed:
                why = "; ".join(entry.public_reason for entry in failed)
                goes_on = "; what was live before stays live" if name in self._live else ""
                raise LoadError(f"model {short(name)} could not be loaded: {why}{goes_on}")
            for entry in chosen:
                if entry.work is not None:
                    raise NotReadyError(
                        f"model {short(name)} is not loaded yet: {entry.work.doing}; it will be "
                        "when it can"
                    )
            self._unload((e for e in self._of_key(name) if e.gone), for_good=True)

    async def unload_model(self, name: str) -> None:
        """Let every version of a model go, when the requests that have it are answered.

        A model that is not loaded, or not there, is no error: it is not live afterwards.

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
        """Return what is held for a change of a model: there is one at a time."""
        return self._changing.setdefault(name, asyncio.Lock())

    async def _take_all(self, entries: Iterable[Entry], name: str | None = None) -> None:
        """Load entries, small files first; return when none is being loaded, or only stalled ones.

        `name` is the model that was asked for.
        """
        chosen, batch = list(entries), object()
        for entry in chosen:
            entry.batch = batch
        await self._catalogue.work_on(chosen, partial(self._take, name=name))

    def status(self) -> RepositoryStatus:
        """Return what the metrics say of it."""
        index = self.index()
        ready = [(entry.name, entry.version) for entry in index if entry.state == "READY"]
        refused = [known.public() for known in self.entries if known.reason]
        return RepositoryStatus(
            waiting_rows={key: self.find(*key).waiting_rows for key in ready},
            verified=self.verified,
            failed=self.failed,
            refused=frozenset((entry.name, entry.version) for entry in refused),
        )

    def index(self) -> list[IndexEntry]:
        """Return every archive, in the order they were given, and what became of it."""
        return [entry.public() for entry in self.entries]

"""The live models: archives are loaded, verified, replaced and unloaded here."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from weakref import WeakValueDictionary

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.errors import (
    ArchiveError,
    OperatorError,
    OutOfMemoryError,
    TorchShipError,
    UnreadableError,
)
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.malloc_trim import trim_malloc
from torchship.script.runtime.torchscript import is_scarcity
from torchship.serve.engine.engine import Engine
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.runnable import Runnable
from torchship.serve.errors import NotReadyError, OutOfServiceError, UnknownModelError
from torchship.serve.protocol.tensors import short
from torchship.serve.repository.catalogue import Catalogue, Entry
from torchship.serve.repository.discovery import printable, version_order
from torchship.serve.repository.engine_starts import EngineEndings, EngineStarts, check_name
from torchship.serve.repository.loading import ArchiveLoad
from torchship.serve.system.heartbeat import Heartbeat
from torchship.serve.telemetry.records import Observer

log = logging.getLogger(__name__)

LONGEST_REASON = 1024  # characters


class LiveModels:
    """Loads the archives of a catalogue, and holds the engines that answer requests.

    Requests continue while archives are loaded: a new engine must reproduce its golden cases before
    it replaces the old one, which is closed when no request holds it.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        keys: Sequence[Ed25519PublicKey],
        limits: Limits | None,
        quarantine: Mapping[str, str],
        report: Callable[[str], None],
        observer: Callable[[str, str], Observer] | None,
        heartbeat: Heartbeat | None,
        load_program: Callable[[Archive, str], Runnable],
    ) -> None:
        """See `Repository`."""
        self.verified_total = 0
        """How often an archive was verified and became live."""
        self.failed_total = 0
        """How often an archive was refused."""
        self._catalogue = catalogue
        self.keys = keys
        """Those that must have signed what is loaded; none if empty."""
        self._limits = limits
        self._report = report
        self._observer = observer
        self._heartbeat = heartbeat or Heartbeat()
        self._load_program = load_program
        self._live: dict[str, dict[str, Engine]] = {}
        self._verifying: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._starting = EngineStarts(quarantine)
        self._ending = EngineEndings()
        self._loaded = False
        self._closed = False

    @property
    def entries(self) -> list[Entry]:
        """Every archive, in the given order."""
        return self._catalogue.entries

    async def _load_entry(self, entry: Entry, load: ArchiveLoad, name: str | None) -> None:
        """Load an entry's present file; if it is good, it replaces the archive that was live."""
        entry.changed = False
        if entry.engine is None and not entry.temporary_failures:
            entry.state, entry.reason = "waiting", ""
        try:
            await self._replace(entry, load, name)
        except NotReadyError:  # the server is shutting down
            pass
        except OutOfServiceError as error:
            self._fail(entry, str(error), out=True)
        except OperatorError as error:
            self._fail(entry, str(error), public_message=error.public, temporary=True)
        except TorchShipError as error:
            temporary = isinstance(error, UnreadableError | OutOfMemoryError) or is_scarcity(
                str(error)
            )
            self._fail(entry, str(error), temporary=temporary)
        except Exception as error:
            log.exception("loading %s", entry.printable_path)
            self._fail(
                entry, f"{type(error).__name__}: {error}", is_user_error=False, temporary=True
            )

    async def _replace(self, entry: Entry, load: ArchiveLoad, name: str | None) -> None:
        content = await load.read(entry.path, self.keys)
        if entry.engine is not None and entry.engine.digest == content.digest:
            entry.mark_good()
            if name is not None:  # a client asked for it and expects a line in the log
                self._announce(logging.INFO, _is_live(entry.engine))
            return
        if name is not None:  # an explicit request overrides the quarantine
            self._starting.release(content.digest)
        if self._starting.in_quarantine(content.digest):
            with suppress(ArchiveError):  # the file may not be an archive
                manifest = await load.identify(entry.path, content)
                self._check_key(entry, (manifest.name, manifest.version), name)
            self._starting.refuse_quarantined(content.digest)
        with self._loading_of(printable(entry.path.stem), content.digest):
            archive = await load.check(entry.path, content)
            del content
            key = archive.require_manifest().name, archive.require_manifest().version
            self._check_key(entry, key, name)
            # One at a time per model, so that the second of two files of one model finds the first.
            async with self._verifying.setdefault(key[0], asyncio.Lock()):
                later = self._later_duplicate(entry, key)
                load.activity = "its golden cases are being run"
                engine = await self._start_engine(archive)
                del archive
                self._go_live(entry, engine)
                if later is not None:
                    self._displace(entry, later)
        await asyncio.to_thread(trim_malloc)

    def _loading_of(self, name: str, digest: str) -> AbstractContextManager[None]:
        """Return a context in which an archive is checked and verified; for subclasses."""
        return nullcontext()

    def _check_key(self, entry: Entry, key: tuple[str, str], name: str | None) -> None:
        """Refuse an archive of another model than expected, or with an unusable name.

        Raises:
            ArchiveError: it is.
        """
        if entry.found.key not in (None, key):
            raise ArchiveError(
                f"the archive is model '{key[0]}' version '{key[1]}': expected what its folders "
                f"say, {' version '.join(repr(part) for part in entry.found.key or key)}"
            )
        if name not in (None, key[0]):
            raise ArchiveError(f"'{entry.path.name}' is now model '{key[0]}'")
        check_name(*key)
        if entry.engine is None:
            entry.key = key

    def _later_duplicate(self, entry: Entry, key: tuple[str, str]) -> Entry | None:
        """Return a later entry that is live as the same model, which this one replaces.

        If two files of one model are loaded together, the first in order wins, not the faster one.

        Raises:
            ArchiveError: an earlier entry is live as that model, or one from an earlier load.
        """
        order = {known: number for number, known in enumerate(self.entries)}
        for other in self.entries:
            if other is not entry and not other.gone and other.engine and other.key == key:
                if other.batch is entry.batch and order[other] > order.get(entry, len(order)):
                    return other
                entry.taken_key = key
                raise ArchiveError(_is_in_already(key, other))
        entry.taken_key = None
        return None

    def _displace(self, entry: Entry, later: Entry) -> None:
        engine, later.engine = later.engine, None
        if engine is not None and later.key is not None:
            self._retire(engine)
            later.taken_key = later.key
            self._fail(later, _is_in_already(later.key, entry))

    async def _start_engine(self, archive: Archive) -> Engine:
        """Return the engine of an archive after it has reproduced the golden cases.

        Raises:
            ArchiveError, DisagreementError: it did not.
            OutOfServiceError: it is in quarantine.
            NotReadyError: the server is shutting down.
        """
        engine = self._engine_of(archive)
        try:
            await self._starting.start(engine)
        except BaseException:
            engine.close()
            self._ending.end(engine)
            raise
        return engine

    def _engine_of(self, archive: Archive) -> Engine:
        """Return an engine that is not started."""
        manifest = archive.require_manifest()
        observer = self._observer and self._observer(manifest.name, manifest.version)
        return Engine(
            archive,
            self._limits,
            observer,
            heartbeat=self._heartbeat,
            hung=self._has_hung,
            load=self._load_program,
        )

    def _has_hung(self, engine: Engine, reason: str) -> None:
        """Take an engine out of service after a call that did not end in time."""
        self.take_out(engine, reason)

    def quarantine_digest(self, digest: str, reason: str) -> None:
        """Quarantine an archive, and take it out of service if it is live.

        It is refused until a client explicitly loads its model. A changed file is another archive.

        Args:
            digest: SHA-256 of the archive's file, in hexadecimal digits.
            reason: the reason, for the log and for clients.
        """
        self._starting.quarantine(digest, reason)
        for engine in [e.engine for e in self.entries if e.engine and e.engine.digest == digest]:
            self.take_out(engine, reason)

    def take_out(self, engine: Engine, reason: str) -> None:
        """Take an engine out of service at once, even if its thread hangs.

        Its entry becomes failed with that reason, and no request gets the engine any more.
        """
        engine.close()
        self._starting.refuse(engine, reason)
        for entry in self.entries:
            if entry.engine is engine:
                entry.engine = None
                self._remove_from_live(engine)
                self._ending.end(engine)
                self._fail(entry, reason, out=True)

    def _go_live(self, entry: Entry, engine: Engine) -> None:
        old = entry.engine
        entry.engine, entry.state = engine, "live"
        entry.mark_good()
        entry.key = name, version = engine.manifest.name, engine.manifest.version
        versions = self._live.get(name, {}) | {version: engine}
        newest_first = sorted(versions, key=version_order, reverse=True)
        self._live[name] = {known: versions[known] for known in newest_first}
        self.verified_total += 1
        if old is not None:
            self._retire(old)
        self._announce(logging.INFO, _is_live(engine))

    def _fail(
        self,
        entry: Entry,
        reason: str,
        is_user_error: bool = True,
        public_message: str = "",
        temporary: bool = False,
        out: bool = False,
    ) -> None:
        # A model's error may have any length, and goes into log lines and answers.
        reason = entry.with_address(printable(" ".join(reason.split())))[:LONGEST_REASON]
        again = entry.temporary_failures > 0 and temporary and entry.reason == reason
        entry.mark_failed(reason, public_message, is_user_error, temporary, out)
        if not again:  # the same failure is reported once
            self.failed_total += 1
            self._announce(logging.WARNING, f"failed: {entry.printable_path}: {entry.reason}")

    def _unload(self, entries: Iterable[Entry], for_good: bool = False) -> None:
        """Unload entries; `for_good` also removes them, because their files were removed."""
        for entry in list(entries):
            engine, entry.engine = entry.engine, None
            entry.mark_good()
            entry.state, entry.initial = "unloaded", False
            if entry.load is not None:
                entry.load.cancel()
            if for_good:
                self.entries.remove(entry)
            if engine is not None:
                self._retire(engine)

    def _retire(self, engine: Engine) -> None:
        """Give no new request the engine, and close it when none holds it."""
        name, version = engine.manifest.name, engine.manifest.version
        if self._remove_from_live(engine):
            line = f"unloaded: {name}/{version}"
            self._ending.end(engine, partial(self._announce, logging.INFO, line))
        else:
            self._ending.end(engine)

    def _remove_from_live(self, engine: Engine) -> bool:
        """Give no new request the engine; return whether it was live until now."""
        name, version = engine.manifest.name, engine.manifest.version
        if self._live.get(name, {}).get(version) is not engine:
            return False
        del self._live[name][version]
        if not self._live[name]:
            del self._live[name]
        return True

    def _announce(self, level: int, line: str) -> None:
        """Log a change, and report it; changes during the start are reported by `summary`."""
        if self._loaded:
            self._report(line)
        if self._loaded or level > logging.INFO:
            log.log(level, "%s", line)

    def find(self, name: str, version: str | None = None) -> Engine:
        """Return the engine of a live model: of the given version, or of the newest.

        Hold it (`with engine:`) across `await`s; otherwise a reload may close it in between.

        Raises:
            NotReadyError: the model exists but is not live, or archives are still being loaded.
            OutOfServiceError: the model was taken out of service.
            UnknownModelError: the server does not have the model, or it is not loaded.
        """
        versions = self._live.get(name, {})
        if version is None and versions:
            return next(iter(versions.values()))
        if version in versions:
            return versions[version]
        what = f"model {short(name)}" + ("" if version is None else f" version {short(version)}")
        for entry in self.entries:
            if entry.key == (name, version or (entry.key or ("", ""))[1]):
                if entry.state == "unloaded":
                    raise UnknownModelError(f"{what} is not loaded")
                if entry.out:
                    raise OutOfServiceError(entry.reason)
                why = "failed its checks" if entry.state == "failed" else "is being checked"
                raise NotReadyError(f"{what} is not ready: it {why}")
        if not self._loaded:
            raise NotReadyError(f"{what} is not ready: archives are still being loaded")
        known = sorted(versions or self._live)
        having = "it has" if versions else "the server has"
        raise UnknownModelError(
            f"{what} is unknown: {having} " + (", ".join(f"'{k}'" for k in known) or "none")
        )

    def versions(self, name: str) -> list[str]:
        """Return the live versions of a model, newest first."""
        return list(self._live.get(name, {}))

    def close(self) -> None:
        """Become not ready; do nothing else, since a signal handler calls this at any point."""
        self._closed = True

    def halt(self) -> None:
        """Cancel all loads, because the server ends."""
        self.close()
        for entry in self.entries:
            if entry.load is not None:
                entry.load.cancel()
        self._starting.close()

    def release(self) -> None:
        """Close every engine; requests still waiting for one are answered with an error."""
        self.halt()
        for engine in self._engines():
            engine.close()

    def join(self, seconds: float) -> bool:
        """Wait up to `seconds` for the threads of closed engines; return whether all ended."""
        end = time.monotonic() + seconds
        return all([engine.join(max(0.0, end - time.monotonic())) for engine in self._engines()])

    def _engines(self) -> list[Engine]:
        """Return every engine that may still have a thread."""
        live = (entry.engine for entry in self.entries if entry.engine is not None)
        return [*live, *self._starting.engines, *self._ending.engines]


def _is_live(engine: Engine) -> str:
    return f"live: {engine.manifest.name}/{engine.manifest.version}"


def _is_in_already(key: tuple[str, str], other: Entry) -> str:
    return f"model '{key[0]}' version '{key[1]}' is in '{other.path.name}' already"

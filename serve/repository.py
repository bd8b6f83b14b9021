"""Which models and versions are live: archives loaded, proved, replaced, let go, listed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.archive import open_archive
from torchship.script.errors import ArchiveError, OperatorError, TorchShipError, UsageError
from torchship.serve.catalogue import Catalogue, Entry, IndexEntry
from torchship.serve.discovery import version_order
from torchship.serve.engine import Engine
from torchship.serve.errors import LoadError, ModeError, NotReadyError, UnknownModelError
from torchship.serve.limits import Limits
from torchship.serve.memory import give_back
from torchship.serve.reports import Observer
from torchship.serve.tensors import short

log = logging.getLogger(__name__)

LONGEST_REASON = 1024  # characters

Mode = Literal["fixed", "poll", "explicit"]


class Repository:
    """The archives of one server; used from its event loop only.

    One change is made at a time. Requests go on meanwhile: a new engine has proved itself before
    it takes the old one's place, and the old one is closed when nobody holds it.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        keys: Sequence[Ed25519PublicKey] = (),
        limits: Limits | None = None,
        *,
        mode: Mode = "fixed",
        load: Sequence[str] = (),
        report: Callable[[str], None] = lambda line: None,
        observer: Callable[[str, str], Observer] | None = None,
    ) -> None:
        """Look at what is there; nothing is loaded yet.

        Args:
            paths: archives, and folders of archives.
            keys: serve only what one of them signed; everything when empty.
            limits: for each engine.
            mode: `fixed`, `poll` or `explicit`.
            load: in explicit mode, the models to load at start.
            report: is told each change after the start, on one line.
            observer: gives, by name and version, who is told of each batch.

        Raises:
            UsageError: `load` is given in another mode.
        """
        if load and mode != "explicit":
            raise UsageError(f"setting 'load' is for explicit mode, and the mode is '{mode}'")
        self._observer = observer
        self.mode: Mode = mode
        self.verified_total = 0
        """How often an archive was proved and went live."""
        self.failed_total = 0
        """How often an archive was refused."""
        self._keys = keys
        self._limits = limits
        self._names = list(dict.fromkeys(load))
        self._report = report
        self._catalogue = Catalogue(paths, keys, only_known=mode == "explicit")
        self._live: dict[str, dict[str, Engine]] = {}
        self._change = asyncio.Lock()
        self._starting: Engine | None = None
        self._retired: set[Engine] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loaded = False
        self._closed = False

    @property
    def entries(self) -> list[Entry]:
        """Every archive, in the order they were given."""
        return self._catalogue.entries

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
        """Load and prove each archive in turn; a good one is live at once. To be called once."""
        async with self._change:
            chosen = [entry for entry in self.entries if entry.initial]
            gone = await self._catalogue.look() if self._names else []
            for name in self._names:
                of_name = self._catalogue.of_name(name, gone)
                if not of_name:
                    of_name = [self._catalogue.add_missing(name)]
                    self._fail(of_name[0], "it is not in the repository")
                else:
                    chosen += of_name
                for entry in of_name:
                    entry.initial = True
            for entry in chosen:
                await self._take(entry)
            self._loaded = True

    async def rescan(self) -> None:
        """Load what is new or has changed, and unload what is gone: a look in poll mode."""
        async with self._change:
            if lost := self._catalogue.lost_folder():
                # A disk that is not mounted is no wish to unload every model.
                log.warning("the folder '%s' is not there: all models stay as they are", lost)
                return
            gone = await self._catalogue.look()
            for entry in self.entries:
                if entry.changed and entry not in gone:
                    await self._take(entry, gone)
            self._unload(gone, for_good=True)

    async def watch(self, seconds: float) -> None:
        """Rescan forever, `seconds` after the end of the last time."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.rescan()
            except Exception:
                log.exception("looking for new archives")

    async def load_model(self, name: str) -> None:
        """Load a model, or load it again: each of its versions, from the files as they are now.

        Raises:
            ModeError: the mode is not explicit.
            UnknownModelError: no file is of that model.
            LoadError: a version failed; others may be live, and what was live before still is.
            NotReadyError: the server is shutting down.
        """
        self._must_be_explicit("load")
        async with self._change:
            gone = await self._catalogue.look()
            chosen = self._catalogue.of_name(name, gone)
            if not chosen:
                raise UnknownModelError(f"model {short(name)} is not in the repository")
            for entry in self._catalogue.missing(name):
                self.entries.remove(entry)
                chosen[0].initial = True
            for entry in chosen:
                await self._take(entry, gone, name)
            failed = [entry for entry in chosen if entry.reason]
            if failed:
                why = "; ".join(entry.public_reason for entry in failed)
                goes_on = "; what was live before stays live" if name in self._live else ""
                raise LoadError(f"model {short(name)} could not be loaded: {why}{goes_on}")
            of_name = (entry for entry in gone if entry.key and entry.key[0] == name)
            self._unload(of_name, for_good=True)

    async def unload_model(self, name: str) -> None:
        """Let every version of a model go, when the requests that have it are answered.

        A model that is not loaded, or not there, is no error: it is not live afterwards.

        Raises:
            ModeError: the mode is not explicit.
        """
        self._must_be_explicit("unload")
        async with self._change:
            for entry in self._catalogue.missing(name):
                self.entries.remove(entry)
            self._unload(entry for entry in self.entries if entry.key and entry.key[0] == name)

    def _must_be_explicit(self, what: str) -> None:
        if self.mode != "explicit":
            raise ModeError(
                f"cannot {what} a model: the server is in {self.mode} mode, expected explicit mode"
            )

    async def _take(
        self, entry: Entry, gone: Sequence[Entry] = (), name: str | None = None
    ) -> None:
        """Load an entry's file as it is now; if it is good, it is live, in the old one's place."""
        entry.changed = False
        if entry.engine is None:
            entry.state, entry.reason = "waiting", ""
        try:
            engine = await self._prove(entry, gone, name)
        except NotReadyError:  # the server is shutting down
            raise
        except OperatorError as error:
            self._fail(entry, str(error), told=error.public)
        except TorchShipError as error:
            self._fail(entry, str(error))
        except Exception as error:
            log.exception("loading %s", entry.path)
            self._fail(entry, f"{type(error).__name__}: {error}", foreseen=False)
        else:
            self._go_live(entry, engine)

    async def _prove(self, entry: Entry, gone: Sequence[Entry], name: str | None) -> Engine:
        archive = await asyncio.to_thread(open_archive, entry.path, self._keys)
        key = archive.vouched.name, archive.vouched.version
        if entry.found.key not in (None, key):
            raise ArchiveError(
                f"the archive is model '{key[0]}' version '{key[1]}': expected what its folders "
                f"say, {' version '.join(repr(part) for part in entry.found.key or key)}"
            )
        if name not in (None, key[0]):
            raise ArchiveError(f"'{entry.path.name}' is now model '{key[0]}'")
        for other in self.entries:
            stays = other is not entry and other not in gone and other.state == "live"
            if stays and other.key == key:
                raise ArchiveError(
                    f"model '{key[0]}' version '{key[1]}' is in '{other.path.name}' already"
                )
        if entry.engine is None:
            entry.key = key
        observer = None if self._observer is None else self._observer(*key)
        engine = self._starting = Engine(archive, self._limits, observer)
        self._begins(engine)
        try:
            if self._closed:
                raise NotReadyError("the server is shutting down")
            await engine.start()
        except BaseException:
            engine.close()
            raise
        finally:
            self._starting = None
            self._begun(engine)
        return engine

    def _begins(self, engine: Engine) -> None:
        """Take note that an engine is about to be proved, which may take this process down."""

    def _begun(self, engine: Engine) -> None:
        """Take note that it was proved, or failed."""

    def _go_live(self, entry: Entry, engine: Engine) -> None:
        old = entry.engine
        entry.engine, entry.state = engine, "live"
        entry.reason, entry.foreseen = "", True
        entry.key = name, version = engine.manifest.name, engine.manifest.version
        versions = self._live.get(name, {}) | {version: engine}
        newest_first = sorted(versions, key=version_order, reverse=True)
        self._live[name] = {known: versions[known] for known in newest_first}
        self.verified_total += 1
        if old is not None:
            self._retire(old)
        self._say(logging.INFO, f"live: {name}/{version}")

    def _fail(self, entry: Entry, reason: str, foreseen: bool = True, told: str = "") -> None:
        # What a model says may be of any length, and goes into lines, labels and answers.
        entry.reason = " ".join(reason.split())[:LONGEST_REASON]
        entry.foreseen, entry.told = foreseen, told
        if entry.engine is None:
            entry.state = "failed"
        self.failed_total += 1
        self._say(logging.WARNING, f"failed: {entry.path}: {entry.reason}")

    def _unload(self, entries: Iterable[Entry], for_good: bool = False) -> None:
        """Let entries go: until they are loaded again, or for good if their files are gone."""
        for entry in list(entries):
            engine, entry.engine = entry.engine, None
            entry.state, entry.reason, entry.initial = "unloaded", "", False
            if for_good:
                self.entries.remove(entry)
            if engine is not None:
                self._retire(engine)

    def _retire(self, engine: Engine) -> None:
        """Give an engine to nobody any more, and close it when nobody holds it."""
        name, version = engine.manifest.name, engine.manifest.version
        line = ""
        if self._live.get(name, {}).get(version) is engine:  # nothing took its place
            del self._live[name][version]
            if not self._live[name]:
                del self._live[name]
            line = f"unloaded: {name}/{version}"
        self._retired.add(engine)
        task = asyncio.create_task(self._let_go(engine, line))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _let_go(self, engine: Engine, line: str) -> None:
        await engine.retire()
        self._retired.discard(engine)
        del engine  # the last reference: its memory is free now
        await asyncio.to_thread(give_back)
        if line:
            self._say(logging.INFO, line)

    def _say(self, level: int, line: str) -> None:
        """Log a change; report it, unless it belongs to the start, which is told as a whole."""
        if self._loaded:
            self._report(line)
        if self._loaded or level > logging.INFO:
            log.log(level, "%s", line)

    def find(self, name: str, version: str | None = None) -> Engine:
        """Return the engine of a live model: of that version, or of the newest.

        Hold it (`with engine:`) for as long as calls are made with it and others wait in between.

        Raises:
            NotReadyError: it is there and not live, or archives are still being checked.
            UnknownModelError: the server does not have it, or it is not loaded.
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

    def index(self) -> list[IndexEntry]:
        """Return every archive, in the order they were given, and what became of it."""
        return [entry.public() for entry in self.entries]

    def close(self) -> None:
        """Be not ready from now on; nothing else, since a signal may call it at any point."""
        self._closed = True

    def halt(self) -> None:
        """Give up what is being loaded: the server ends."""
        self.close()
        if self._starting is not None:
            self._starting.close()

    def release(self) -> None:
        """Close every engine; requests still waiting for one are answered with an error."""
        self.halt()
        for engine in self._engines():
            engine.close()

    def join(self, seconds: float) -> bool:
        """Wait at most so long for the threads of closed engines; return whether all ended."""
        end = time.monotonic() + seconds
        return all([engine.join(max(0.0, end - time.monotonic())) for engine in self._engines()])

    def _engines(self) -> list[Engine]:
        """Return every engine that may still have a thread."""
        return [*(e.engine for e in self.entries if e.engine is not None), *self._retired]

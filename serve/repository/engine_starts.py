"""Engines before and after they are live: what may start, what is in quarantine, what ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping

from torchship.script.errors import ArchiveError
from torchship.script.runtime.malloc_trim import trim_malloc
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import NotReadyError, OutOfServiceError

LONGEST_NAME = 255  # characters, as of a folder's name
RESERVED_NAMES = frozenset({"stats"})  # GET /v2/models/stats is about all models


def check_name(name: str, version: str) -> None:
    """Refuse a model that not every route can be asked for.

    Raises:
        ArchiveError: its name is a route's, or is too long for one.
    """
    if name in RESERVED_NAMES:
        raise ArchiveError(
            f"a model named '{name}' cannot be asked for, since GET /v2/models/{name} is about "
            "all models: export it again under another name (--name)"
        )
    if max(len(name), len(version)) > LONGEST_NAME:
        raise ArchiveError(
            f"its name has {len(name)} characters and its version {len(version)}: expected at "
            f"most {LONGEST_NAME} each; export it again under a shorter one (--name, --version)"
        )


class EngineStarts:
    """The engines that prove themselves now; those of archives in quarantine may not."""

    def __init__(self, quarantine: Mapping[str, str]) -> None:
        """Take the archives that are in quarantine, by their digests, and why."""
        self._quarantine = dict(quarantine)
        self._refused: dict[Engine, asyncio.Future[str]] = {}
        self._closed = False

    @property
    def engines(self) -> list[Engine]:
        """Those that have not proved themselves yet."""
        return list(self._refused)

    async def prove(self, engine: Engine) -> None:
        """Start an engine; return when it has proved itself.

        Raises:
            ArchiveError: as `Engine.start`.
            OutOfServiceError: it is in quarantine, or was refused meanwhile.
            NotReadyError: the server is shutting down.
        """
        if self._closed:
            raise NotReadyError("the server is shutting down")
        self.refuse_quarantined(engine.digest)
        refused = self._refused[engine] = asyncio.get_running_loop().create_future()
        start = asyncio.ensure_future(engine.start())
        try:
            await asyncio.wait({start, refused}, return_when=asyncio.FIRST_COMPLETED)
            if refused.done():
                raise OutOfServiceError(refused.result())
            start.result()
        finally:
            start.cancel()
            del self._refused[engine]

    def in_quarantine(self, digest: str) -> bool:
        """Return whether an archive is in quarantine."""
        return digest in self._quarantine

    def refuse_quarantined(self, digest: str) -> None:
        """Refuse an archive that is in quarantine.

        Raises:
            OutOfServiceError: it is.
        """
        if digest in self._quarantine:
            raise OutOfServiceError(self._quarantine[digest])

    def refuse(self, engine: Engine, reason: str) -> None:
        """Have an engine fail that has not proved itself yet, whatever its thread does."""
        refused = self._refused.get(engine)
        if refused is not None and not refused.done():
            refused.set_result(reason)

    def quarantine(self, digest: str, reason: str) -> None:
        """Refuse an archive from now on."""
        self._quarantine[digest] = reason
        for engine in self.engines:
            if engine.digest == digest:
                self.refuse(engine, reason)

    def pardon(self, digest: str) -> None:
        """Let an archive try again."""
        self._quarantine.pop(digest, None)

    def close(self) -> None:
        """Let none start any more, and give up those that do now."""
        self._closed = True
        for engine in self._refused:
            engine.close()


class EngineEndings:
    """Engines that are given to nobody any more, until their threads have ended."""

    def __init__(self) -> None:
        self.engines: set[Engine] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def end(self, engine: Engine, then: Callable[[], None] = lambda: None) -> None:
        """Close an engine when nobody holds it; call `then` when it has ended."""
        self.engines.add(engine)
        self.spawn(self._end(engine, then))

    async def _end(self, engine: Engine, then: Callable[[], None]) -> None:
        await engine.retire()
        self.engines.discard(engine)
        del engine  # the last reference: its memory is free now
        await asyncio.to_thread(trim_malloc)
        then()

    def spawn(self, doing: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Have something done that nobody waits for."""
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

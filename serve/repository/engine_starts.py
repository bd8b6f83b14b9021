"""Engines that start, engines that end, and the quarantine of archives that must not start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping

from torchship.script.errors import ArchiveError
from torchship.script.runtime.malloc_trim import trim_malloc
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import NotReadyError, OutOfServiceError

LONGEST_NAME = 255  # characters, as for a folder's name
RESERVED_NAMES = frozenset({"stats"})  # GET /v2/models/stats returns the statistics of all models


def check_name(name: str, version: str) -> None:
    """Refuse a name or version that does not work in every route.

    Raises:
        ArchiveError: the name is reserved for a route, or one of the two is too long.
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
    """The engines that are verifying their golden cases; none of a quarantined archive may."""

    def __init__(self, quarantine: Mapping[str, str]) -> None:
        """Take the quarantined archives: reasons by digest."""
        self._quarantine = dict(quarantine)
        self._refused: dict[Engine, asyncio.Future[str]] = {}
        self._closed = False

    @property
    def engines(self) -> list[Engine]:
        """The engines that have not verified their golden cases yet."""
        return list(self._refused)

    async def start(self, engine: Engine) -> None:
        """Start an engine; return when it has reproduced its golden cases.

        Raises:
            ArchiveError: as `Engine.start`.
            OutOfServiceError: its archive is quarantined, or it was refused while starting.
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
        """Return whether an archive is quarantined."""
        return digest in self._quarantine

    def refuse_quarantined(self, digest: str) -> None:
        """Refuse an archive that is quarantined.

        Raises:
            OutOfServiceError: it is.
        """
        if digest in self._quarantine:
            raise OutOfServiceError(self._quarantine[digest])

    def refuse(self, engine: Engine, reason: str) -> None:
        """Make an engine's start fail, even if its thread hangs."""
        refused = self._refused.get(engine)
        if refused is not None and not refused.done():
            refused.set_result(reason)

    def quarantine(self, digest: str, reason: str) -> None:
        """Quarantine an archive, and make its running starts fail."""
        self._quarantine[digest] = reason
        for engine in self.engines:
            if engine.digest == digest:
                self.refuse(engine, reason)

    def release(self, digest: str) -> None:
        """Remove an archive from quarantine."""
        self._quarantine.pop(digest, None)

    def close(self) -> None:
        """Refuse further starts, and close the engines that are starting."""
        self._closed = True
        for engine in self._refused:
            engine.close()


class EngineEndings:
    """Engines that take no new requests, until their threads have ended."""

    def __init__(self) -> None:
        self.engines: set[Engine] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def end(self, engine: Engine, then: Callable[[], None] = lambda: None) -> None:
        """Close an engine when no request holds it; call `then` when it has ended."""
        self.engines.add(engine)
        self.spawn(self._end(engine, then))

    async def _end(self, engine: Engine, then: Callable[[], None]) -> None:
        await engine.retire()
        self.engines.discard(engine)
        del engine  # the last reference, so that its memory is freed before the trim
        await asyncio.to_thread(trim_malloc)
        then()

    def spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run a coroutine in the background."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

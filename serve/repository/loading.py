"""Files read and archives checked while others are: on threads that nobody waits for at the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.format.file_content import Content
from torchship.script.format.manifest import Manifest
from torchship.script.runtime.archive import Archive, check_content, read_content, read_manifest
from torchship.serve.system.daemon_threads import on_thread

log = logging.getLogger(__name__)

STALLED_SECONDS = 5
"""After which a disk that has sent nothing is not waited for by others."""


class ArchiveLoad:
    """What is being done with one file, for those who wait for it or ask what it waits for."""

    def __init__(self, turns: asyncio.Semaphore) -> None:
        """Take what says how many files are worked on at the same time."""
        self.doing = "it waits for its turn"
        self.stalled = False
        """Whether the disk sends nothing."""
        self._task: asyncio.Task[None] | None = None
        self._turns = turns
        self._has_turn = False
        self._rested = asyncio.Event()

    def begin(self, doing: Coroutine[None, None, None], ended: Callable[[], None]) -> None:
        """Do it; call `ended` when it has ended or was given up."""

        def end(task: asyncio.Task[None]) -> None:
            ended()
            self._rest()
            if not task.cancelled() and task.exception() is not None:
                log.error("loading", exc_info=task.exception())

        self._task = asyncio.create_task(doing)
        self._task.add_done_callback(end)

    def give_up(self) -> None:
        """Do no more; a thread that waits for its disk goes on to wait, and for nobody."""
        if self._task is not None:
            self._task.cancel()

    async def rested(self) -> None:
        """Wait until the work has ended, or has stalled."""
        await self._rested.wait()

    async def _take_turn(self) -> None:
        await self._turns.acquire()
        self._has_turn = True

    def _rest(self) -> None:
        """Let others have the turn, and those go on who wait."""
        if self._has_turn:
            self._has_turn = False
            self._turns.release()
        self._rested.set()

    async def read(self, path: Path, keys: Sequence[Ed25519PublicKey]) -> Content:
        """Read a file and check its signature, in a turn that others have while the disk stalls.

        Raises:
            ArchiveError: as `read_content`.
        """
        await self._take_turn()
        self.doing = f"'{path.name}' is being read"
        blocks = 0

        def count(size: int) -> None:
            nonlocal blocks
            blocks += 1

        reading = asyncio.ensure_future(
            on_thread(lambda: read_content(path, keys, count), daemon=True)
        )
        try:
            seen = 0
            while not (await asyncio.wait({reading}, timeout=STALLED_SECONDS))[0]:
                if blocks == seen and not self.stalled:
                    self.stalled = True
                    self.doing = f"the disk does not answer: {self.doing}"
                    self._rest()
                seen = blocks
        finally:
            reading.cancel()
        if self.stalled:
            self.stalled = False
            await self._take_turn()
        return reading.result()

    async def identify(self, path: Path, content: Content) -> Manifest:
        """Return the manifest of what was read, of which nothing else is looked at.

        Raises:
            ArchiveError: as `read_manifest`.
        """
        return await on_thread(lambda: read_manifest(path, content))

    async def check(self, path: Path, content: Content) -> Archive:
        """Check what was read.

        Raises:
            ArchiveError: as `check_content`.
        """
        self.doing = f"'{path.name}' is being checked"
        return await on_thread(lambda: check_content(path, content))

"""Reads and checks archives concurrently, on threads that the shutdown does not wait for."""

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
"""Seconds without data from a disk, after which other loads no longer wait for it."""


class ArchiveLoad:
    """The load of one archive, and what it is doing at present."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        """Take the semaphore that limits concurrent loads."""
        self.activity = "it waits for its turn"
        self.stalled = False
        """Whether the disk has sent nothing for `STALLED_SECONDS`."""
        self._task: asyncio.Task[None] | None = None
        self._slots = slots
        self._has_slot = False
        self._settled = asyncio.Event()

    def begin(self, work: Coroutine[None, None, None], ended: Callable[[], None]) -> None:
        """Run the coroutine `doing`; call `ended` when it has ended or was cancelled."""

        def end(task: asyncio.Task[None]) -> None:
            ended()
            self._settle()
            if not task.cancelled() and task.exception() is not None:
                log.error("loading", exc_info=task.exception())

        self._task = asyncio.create_task(work)
        self._task.add_done_callback(end)

    def cancel(self) -> None:
        """Cancel the load; a thread that waits for a disk stays behind as a daemon thread."""
        if self._task is not None:
            self._task.cancel()

    async def settled(self) -> None:
        """Wait until the load has ended or stalled."""
        await self._settled.wait()

    async def _acquire_slot(self) -> None:
        await self._slots.acquire()
        self._has_slot = True

    def _settle(self) -> None:
        """Release the semaphore, and wake those who wait for this load."""
        if self._has_slot:
            self._has_slot = False
            self._slots.release()
        self._settled.set()

    async def read(self, path: Path, keys: Sequence[Ed25519PublicKey]) -> Content:
        """Read a file and check its signature; release the semaphore while the disk stalls.

        Raises:
            ArchiveError: as `read_content`.
        """
        await self._acquire_slot()
        self.activity = f"'{path.name}' is being read"
        blocks = 0

        def count(size: int) -> None:
            nonlocal blocks
            blocks += 1

        reading = asyncio.ensure_future(
            on_thread(lambda: read_content(path, keys, count), daemon=True)
        )
        try:
            blocks_before = 0
            while not (await asyncio.wait({reading}, timeout=STALLED_SECONDS))[0]:
                if blocks == blocks_before and not self.stalled:
                    self.stalled = True
                    self.activity = f"the disk does not answer: {self.activity}"
                    self._settle()
                blocks_before = blocks
        finally:
            reading.cancel()
        if self.stalled:
            self.stalled = False
            await self._acquire_slot()
        return reading.result()

    async def identify(self, path: Path, content: Content) -> Manifest:
        """Return the manifest in a file's content, without checking anything else.

        Raises:
            ArchiveError: as `read_manifest`.
        """
        return await on_thread(lambda: read_manifest(path, content))

    async def check(self, path: Path, content: Content) -> Archive:
        """Check a file's content.

        Raises:
            ArchiveError: as `check_content`.
        """
        self.activity = f"'{path.name}' is being checked"
        return await on_thread(lambda: check_content(path, content))

"""The stores of a server: the supervisor's side of the process that mirrors them."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import time
import uuid
from contextlib import suppress
from pathlib import Path

from torchship.serve.errors import StoreError
from torchship.serve.process import store_messages as messages
from torchship.serve.process.channel import Channel
from torchship.serve.process.messages import Credentials
from torchship.serve.process.worker_slot import Backoff
from torchship.serve.settings import Settings
from torchship.serve.stores.addresses import Address
from torchship.serve.stores.cache import Cache, Run, default_folder
from torchship.serve.system.interpreter import command

log = logging.getLogger(__name__)

DEATHS = 3  # of the process before its first message, after which the server does not start


class Stores:
    """The local folders in place of the addresses of stores; used from one event loop."""

    def __init__(self, settings: Settings, credentials: Credentials) -> None:
        """Take what the settings name; nothing is fetched yet."""
        self._settings, self._credentials = settings, credentials
        self._run: Run | None = None
        self._folders: dict[Address, Path] = {}
        self._cache = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ended = asyncio.Event()
        self._started: asyncio.Future[str] | None = None
        self._looks: dict[str, asyncio.Future[None]] = {}

    @property
    def paths(self) -> list[str]:
        """The paths of the settings, with local folders in place of addresses."""
        return [
            str(self._folders[path] if isinstance(path, Address) else path)
            for path in self._settings.paths
        ]

    @property
    def addresses(self) -> dict[str, str]:
        """The address of the folder in a store that each local folder shows part of."""
        return {
            str(folder): str(address).rpartition("/")[0] if address.is_archive else str(address)
            for address, folder in self._folders.items()
        }

    async def start(self) -> None:
        """Mirror all stores; return when what they have is there. Without stores, do nothing.

        Raises:
            StoreError: a store cannot be read.
            UsageError: the cache cannot be written.
        """
        if not self._settings.addresses:
            return
        parent = self._settings.store_cache or default_folder()
        self._cache = parent.absolute()
        self._run = Cache(self._cache, self._settings.store_cache_bytes).new_run()
        for number, address in enumerate(dict.fromkeys(self._settings.addresses)):
            self._folders[address] = folder = self._run.folder / str(number)
            folder.mkdir()
        self._started = asyncio.get_running_loop().create_future()
        self._keeper = asyncio.ensure_future(self._keep(self._started))
        failure = await self._started
        if failure:
            raise StoreError(failure)
        if self._settings.mode == "fixed":
            self._end_process()

    async def _keep(self, started: asyncio.Future[str]) -> None:
        """Run one process after the other."""
        backoff, deaths = Backoff(), 0
        while True:
            began = time.monotonic()
            self._ended.clear()
            try:
                self._open()
                await self._ended.wait()
            except OSError as error:
                log.error("the process that fetches archives cannot be started: %s", error)
            deaths += 1
            for look in self._looks.values():
                if not look.done():
                    look.set_result(None)
            if not started.done() and deaths >= DEATHS:
                started.set_result("the process that fetches archives from stores keeps dying")
            if started.done() and self._settings.mode == "fixed":
                return
            log.error("the process that fetches archives from stores has ended; starting another")
            await asyncio.sleep(backoff.pause(time.monotonic() - began))

    def _open(self) -> None:
        own, given = socket.socketpair()
        with given:
            self._process = subprocess.Popen(
                command("torchship.serve.process.store_mirrors", str(given.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[given.fileno()],
                start_new_session=True,
            )
        self._channel = Channel(own)
        self._channel.listen(self._on_message, self._on_closed)
        settings = self._settings
        start = messages.StartMirrors(
            mirrors=tuple(
                messages.Mirrored(address=address.url, folder=str(folder))
                for address, folder in self._folders.items()
            ),
            cache=str(self._cache),
            cache_bytes=settings.store_cache_bytes,
            seconds=settings.store_seconds,
            poll_seconds=settings.poll_seconds if settings.mode == "poll" else None,
            strict=settings.mode == "fixed",
            credentials=self._credentials,
            log_format=settings.log_format,
            log_level=settings.log_level,
        )
        self._channel.send(start.encoded())

    def _on_message(self, data: bytes) -> None:
        looked = messages.from_mirrors(data)
        if looked.id in self._looks:
            look = self._looks[looked.id]
            if not look.done():
                look.set_result(None)
        elif self._started is not None and not self._started.done():
            self._started.set_result(looked.failure)

    def _on_closed(self) -> None:
        self._end_process()
        self._ended.set()

    def _end_process(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def look(self) -> None:
        """Look at all stores now; return when that is done, or cannot be done."""
        if self._channel is None:
            return
        id = uuid.uuid4().hex
        look = self._looks[id] = asyncio.get_running_loop().create_future()
        self._channel.send(messages.Look(id=id).encoded())
        try:
            await look
        finally:
            del self._looks[id]

    def renew(self, credentials: Credentials) -> None:
        """Use other keys from now on."""
        self._credentials = credentials
        if self._channel is not None:
            self._channel.send(messages.RenewKeys(credentials=credentials).encoded())

    def close(self) -> None:
        """End the process and remove the folders; the cache keeps what was fetched."""
        if self._keeper is not None:
            self._keeper.cancel()
        self._end_process()
        if self._run is not None:
            with suppress(OSError):
                self._run.close()

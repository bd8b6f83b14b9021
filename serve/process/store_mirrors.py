"""The process that mirrors stores into local folders, which the workers read.

The libraries of the stores run here only: one process downloads for all workers, and neither the
supervisor nor a worker waits for a store. It ends with the supervisor.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.errors import TorchShipError
from torchship.serve.process import store_messages as messages
from torchship.serve.process.channel import Channel
from torchship.serve.process.messages import Credentials
from torchship.serve.stores.addresses import read_address
from torchship.serve.stores.cache import Cache
from torchship.serve.stores.mirror import Mirror
from torchship.serve.stores.opening import open_store
from torchship.serve.system.daemon_threads import on_thread
from torchship.serve.system.interpreter import name_process
from torchship.serve.system.standard_streams import take_over
from torchship.serve.telemetry.logs import configure_logging

log = logging.getLogger(__name__)

MOST_PAUSES = 12
"""The largest number of pauses between two looks at a store that fails."""


class Follower:
    """Looks at one store again and again, and says in the log what changes about that."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._problems: frozenset[str] = frozenset()
        self._failures = 0
        self._pauses = 0
        self._looking: asyncio.Task[str] | None = None

    async def look(self) -> str:
        """Look now, or wait for the look that began already; return what is wrong, or ""."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        return await asyncio.shield(self._looking)

    async def look_if_due(self) -> None:
        """Look unless the store failed a short while ago."""
        if self._pauses:
            self._pauses -= 1
        else:
            await self.look()

    async def _look(self) -> str:
        problems: list[str] = []
        failed, failed_before = False, self._failures > 0
        try:
            problems = await on_thread(self._mirror.sync, daemon=True)
        except TorchShipError as error:
            failed, problems = True, [str(error)]
        except Exception as error:
            log.exception("looking at %s", self._mirror.address)
            failed, problems = True, [f"{self._mirror.address}: {type(error).__name__}: {error}"]
        self._failures = self._failures + 1 if failed else 0
        self._pauses = min((1 << self._failures) - 1, MOST_PAUSES) if failed else 0
        # A store that is down says so in many ways.
        for problem in sorted(set(problems) - self._problems) * (not (failed and failed_before)):
            log.warning("%s: what is live from there stays live", problem)
        if failed_before and not failed:
            log.info("%s: it answers again", self._mirror.address)
        self._problems = frozenset(problems)
        return "; ".join(problems) if problems else ""

    @property
    def failed(self) -> bool:
        """Whether the last look failed as a whole."""
        return self._failures > 0

    def missing(self) -> str:
        """Return a complaint if the address is of an archive that does not exist, or ""."""
        mirror = self._mirror
        if self.failed or not mirror.address.is_archive or mirror.has_archives:
            return ""
        return f"{mirror.address} is not there: expected an archive or a folder of archives"

    def trust(self, keys: list[Ed25519PublicKey]) -> None:
        """From now on, publish only archives that one of these keys signed."""
        self._mirror.keys = keys


class Mirrors:
    """All stores of a server."""

    def __init__(self, start: messages.StartMirrors, channel: Channel) -> None:
        """Make the mirrors; nothing is fetched yet.

        Raises:
            UsageError: the cache cannot be used.
        """
        self._start, self._channel = start, channel
        cache = Cache(Path(start.cache), start.cache_bytes)
        self._followers = []
        for mirrored in start.mirrors:
            address = read_address(mirrored.address)
            open_ = partial(open_store, address, start.seconds)
            self._followers.append(Follower(Mirror(address, Path(mirrored.folder), cache, open_)))
        self._trust(start.credentials)
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Follow the stores until the supervisor ends."""
        self._channel.listen(self._on_message, self._ended.set)
        wrong = await asyncio.gather(*(follower.look() for follower in self._followers))
        failed = [
            text
            for text, follower in zip(wrong, self._followers, strict=True)
            if text and (self._start.strict or follower.failed)
        ] + [text for follower in self._followers if (text := follower.missing())]
        self._send(messages.Looked(id="", failure="; ".join(failed)))
        if self._start.poll_seconds is not None:
            for follower in self._followers:
                self._run(self._poll(follower, self._start.poll_seconds))
        await self._ended.wait()

    async def _poll(self, follower: Follower, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            await follower.look_if_due()

    def _on_message(self, data: bytes) -> None:
        match messages.to_mirrors(data):
            case messages.RenewKeys(credentials=credentials):
                self._trust(credentials)
            case messages.Look(id=id):
                self._run(self._look(id))

    async def _look(self, id: str) -> None:
        await asyncio.gather(*(follower.look() for follower in self._followers))
        self._send(messages.Looked(id=id))

    def _trust(self, credentials: Credentials) -> None:
        keys = [
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))
            for key in credentials.trusted_keys or ()
        ]
        for follower in self._followers:
            follower.trust(keys)

    def _send(self, message: messages.Looked) -> None:
        self._channel.send(message.encoded())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _run(start: messages.StartMirrors, channel: Channel) -> None:
    try:
        mirrors = Mirrors(start, channel)
    except TorchShipError as error:
        channel.listen(lambda data: None, lambda: None)
        channel.send(messages.Looked(id="", failure=str(error)).encoded())
        return
    await mirrors.run()


def main() -> None:
    """Mirror what the first message names; the argument is the descriptor of the channel."""
    name_process("torchship-m")
    take_over(2)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    first = channel.receive()
    if first is None:
        return
    start = messages.to_mirrors(first)
    assert isinstance(start, messages.StartMirrors)
    configure_logging(start.log_format, start.log_level)
    # The libraries log URLs and headers, with their secrets.
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("torchship").setLevel(start.log_level.upper())
    asyncio.run(_run(start, channel))
    os._exit(0)  # threads of the libraries may wait for a store

"""A TCP proxy in front of Redis, with which a test simulates network faults."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

BLOCK = 1 << 16


class Proxy:
    """Passes bytes on between clients and the Redis behind a unix socket."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.removeprefix("unix://")
        self.url = ""
        self.losing = b""
        """The reply to the next request with this in it is lost, with its connection."""
        self.stays_away = False
        """Whether nobody is connected any more after that reply was lost."""
        self.holding = b""
        """Requests with this in them wait in the proxy, with all that follow on any connection."""
        self.silent = b""
        """The next request with this in it gets no reply; its connection stays open."""
        self.away = False
        self.happened = threading.Event()
        """Set when a reply is lost or kept back, or a request held."""
        self._open: asyncio.Event
        self.loop: asyncio.AbstractEventLoop
        self._writers: set[asyncio.StreamWriter] = set()

    def lose(self, request: bytes, stays_away: bool = False) -> None:
        """Lose the reply to the next request with `request` in it, and its connection."""
        self.happened.clear()
        self.stays_away, self.losing = stays_away, request

    def hold(self, request: bytes) -> None:
        """Stop at the next request with `request` in it, as a Redis that hangs does."""
        self.happened.clear()
        self.holding = request

    def silence(self, request: bytes) -> None:
        """Pass on the next request with `request` in it, and nothing back."""
        self.happened.clear()
        self.silent = request

    def heal(self) -> None:
        """Be a cable again; what was held arrives now."""
        self.losing = self.holding = self.silent = b""
        self.away = False
        self.loop.call_soon_threadsafe(self._open.set)

    async def serve(self, ready: threading.Event, end: asyncio.Event) -> None:
        """Pass on until the end."""
        self._open = asyncio.Event()
        self._open.set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await end.wait()
        server.close()
        self._cut()

    def _cut(self) -> None:
        for writer in self._writers:
            writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.away:
            writer.close()
            return
        back, there = await asyncio.open_unix_connection(self.upstream)
        pair = {writer, there}
        self._writers |= pair
        lossy, mute = asyncio.Event(), asyncio.Event()
        with suppress(ConnectionError):
            await asyncio.gather(
                self._requests(reader, there, lossy, mute), self._replies(back, writer, lossy, mute)
            )
        for end in pair:
            end.close()
        self._writers -= pair

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        there: asyncio.StreamWriter,
        lossy: asyncio.Event,
        mute: asyncio.Event,
    ) -> None:
        while data := await reader.read(BLOCK):
            if self.holding and self.holding in data:
                self._open.clear()
                self.happened.set()
            await self._open.wait()
            if self.losing and self.losing in data:
                self.losing = b""
                lossy.set()
            if self.silent and self.silent in data:
                self.silent = b""
                mute.set()
            there.write(data)
            await there.drain()
        there.close()

    async def _replies(
        self,
        back: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        lossy: asyncio.Event,
        mute: asyncio.Event,
    ) -> None:
        while data := await back.read(BLOCK):
            if lossy.is_set():  # Redis has done what was asked
                self.away = self.stays_away
                self.happened.set()
                if self.away:
                    self._cut()
                break
            if mute.is_set():
                self.happened.set()
                continue
            writer.write(data)
            await writer.drain()
        writer.close()


@contextmanager
def running_proxy(upstream: str) -> Iterator[Proxy]:
    """Run a proxy before the Redis at a unix socket's URL, on a thread of its own."""
    proxy = Proxy(upstream)
    ready, ends = threading.Event(), []

    async def serve() -> None:
        proxy.loop, end = asyncio.get_running_loop(), asyncio.Event()
        ends.append(end)
        await proxy.serve(ready, end)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(10)
    try:
        yield proxy
    finally:
        proxy.loop.call_soon_threadsafe(ends[0].set)
        thread.join()

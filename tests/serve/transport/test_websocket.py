"""WebSockets that are refused, and those whose handshake has no answer yet when the server ends."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from clocked import AccessLog, Line, access_log
from torchship.serve.http.middleware import Middleware
from torchship.serve.service.accounting import RequestAccounting
from torchship.serve.settings import Settings
from torchship.serve.system.body_memory import BodyMemory
from torchship.serve.telemetry.logs import access_line
from torchship.serve.telemetry.metrics import Metrics
from torchship.serve.transport.websocket import WebSocketProtocol, websocket_protocol

HANDSHAKE = (
    b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
ROOM = 1000  # bytes of messages


class Session:
    """A WebSocket to an application that answers its handshake when it is let to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.let = asyncio.Event()
        self.state = ServerState()
        accounting = RequestAccounting(Metrics(), access_line("all"))
        kind = websocket_protocol(Settings(), accounting=accounting, memory=BodyMemory(2 * ROOM))
        app = Middleware(self._app, accounting)
        config = uvicorn.Config(
            app, ws=kind, lifespan="off", log_config=None, ws_max_size=ROOM, access_log=False
        )
        self.protocol: WebSocketProtocol = kind(config, self.state, {})
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        self.asked.set()
        await self.let.wait()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async def open(self) -> None:
        mine, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self.protocol, mine)
        self.reader, self.writer = await asyncio.open_connection(sock=theirs)
        self.writer.write(HANDSHAKE)
        await self.asked.wait()

    async def rest(self) -> bytes:
        """Return what is sent until the connection ends, when all its tasks have ended."""
        content = await self.reader.read()
        self.writer.close()
        await asyncio.gather(*self.state.tasks, return_exceptions=True)
        return content


def run(steps: Callable[[Session], Coroutine[Any, Any, bytes]]) -> tuple[bytes, AccessLog]:
    async def session() -> bytes:
        opened = Session()
        await opened.open()
        return await steps(opened)

    with access_log() as log:
        return asyncio.run(session()), log


def frame(content: bytes, start: int = 0x81) -> bytes:
    return bytes([start, 0xFE]) + struct.pack(">H", len(content)) + bytes(4) + content


def test_a_handshake_that_began_is_answered_before_the_server_ends() -> None:
    async def steps(session: Session) -> bytes:
        session.protocol.shutdown()
        session.let.set()
        return await session.rest()

    content, log = run(steps)
    assert content.startswith(b"HTTP/1.1 101 ")
    assert content.endswith(b"\x88\x02" + struct.pack(">H", 1012))
    assert log.lines == [Line("", 101)]


def test_one_that_is_not_answered_at_the_limit_is_refused_with_503() -> None:
    async def steps(session: Session) -> bytes:
        session.protocol.shutdown()
        for task in session.state.tasks:  # as uvicorn does
            task.cancel()
        return await session.rest()

    content, log = run(steps)
    assert content.startswith(b"HTTP/1.1 503 ")
    assert content.endswith(b'{"error":"the server is shutting down"}')
    assert log.lines == [Line("", 503)]


REFUSED = pytest.mark.parametrize(
    ("sent", "code", "status"),
    [
        (frame(b"a" * (ROOM + 1)), 1009, 413),
        (frame(b"\xff"), 1007, 400),
        (frame(b"a", 0xF1), 1002, 400),
        (frame(b"a" * ROOM) * 3, 1013, 503),
    ],
)


@REFUSED
def test_a_message_that_is_refused_is_accounted_for_once(
    sent: bytes, code: int, status: int
) -> None:
    async def steps(session: Session) -> bytes:
        session.let.set()
        await session.reader.readuntil(b"\r\n\r\n")
        session.writer.write(sent)
        return await session.rest()

    content, log = run(steps)
    assert content[0] == 0x88
    assert content[2:4] == struct.pack(">H", code)
    assert sorted(log.lines) == [Line("", 101), Line("", status)]


@REFUSED
@pytest.mark.parametrize("server_ends", [False, True])
def test_a_client_that_still_sends_is_read_until_either_side_ends(
    sent: bytes, code: int, status: int, server_ends: bool
) -> None:
    """A socket that is closed with unread data in it resets the connection."""

    async def steps(session: Session) -> bytes:
        session.let.set()
        await session.reader.readuntil(b"\r\n\r\n")
        session.writer.write(sent)
        content = await session.reader.read()
        session.writer.write(bytes(1 << 22))  # more than the socket holds
        await session.writer.drain()
        assert not session.protocol.transport.is_closing()
        if server_ends:
            session.protocol.shutdown()
            assert session.protocol.transport.is_closing()
        return content + await session.rest()

    content, log = run(steps)
    assert content[:1] + content[2:4] == b"\x88" + struct.pack(">H", code)
    assert sorted(log.lines) == [Line("", 101), Line("", status)]


def test_what_a_refused_message_held_is_free_at_once() -> None:
    async def steps(session: Session) -> bytes:
        session.let.set()
        await session.reader.readuntil(b"\r\n\r\n")
        memory = session.protocol.body_memory
        begun = frame(b"a" * ROOM, 0x01)  # a fragment; the last one does not come
        memory.held = 2 * ROOM  # by others
        session.protocol.data_received(begun)
        assert session.protocol.close_sent
        assert memory.held == 2 * ROOM
        return await session.rest()

    run(steps)

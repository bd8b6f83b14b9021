"""WebSockets with slow clients or invalid handshakes do not block the server."""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from clocked import ClockedServer, clocked

LIMIT = 10  # seconds on the server's clock
LINES = [
    b"Host: a",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
]


def handshake(*more: bytes, target: bytes = b"/v2/models/memory/stream", end: bytes = b"") -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, *LINES, *more, b"", end])


def live_sequences(server: ClockedServer) -> int:
    live: int = httpx.get(f"{server.url}/v2/sequences", trust_env=False).json()["live"]
    return live


@pytest.fixture(scope="module")
def served(archives: dict[str, Path]) -> Iterator[ClockedServer]:
    with clocked(archives["memory"], send_seconds=LIMIT) as server:
        yield server


@pytest.fixture
def server(served: ClockedServer, caplog: pytest.LogCaptureFixture) -> Iterator[ClockedServer]:
    yield served
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    "content",
    [
        handshake(b"Cookie: " + b"a" * 9000),
        handshake(*[b"Cookie: a"] * 200),
        handshake(target=b"/" + b"a" * 9000),
        handshake(b"Content-Length: 2", end=b"{}").replace(b"GET", b"POST"),
    ],
)
def test_an_invalid_handshake_is_refused(server: ClockedServer, content: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(content)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"].startswith("the WebSocket's handshake: ")


def test_a_client_that_reads_no_answers_is_disconnected(server: ClockedServer) -> None:
    x = {"name": "x", "datatype": "FP32", "shape": [60_000, 2], "data": [1] * 120_000}
    message = json.dumps({"inputs": [x]}).encode()
    frame = b"\x81\xff" + struct.pack(">Q", len(message)) + bytes(4) + message
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(server.address)
        connection.sendall(handshake())
        assert connection.recv(12) == b"HTTP/1.1 101"
        errors: list[OSError] = []

        def send() -> None:
            try:
                while True:  # until the server reads no more, and ends the connection
                    connection.sendall(frame)
            except OSError as error:  # a TimeoutError if the server does not end it
                errors.append(error)

        sender = threading.Thread(target=send)
        sender.start()
        while not server.holds_unread_answers():
            pass
        server.advance(LIMIT)  # not so long that a ping would be late
        sender.join()
        assert isinstance(errors[0], ConnectionError)
        poll = select.poll()
        poll.register(connection, 0)
        assert poll.poll(60_000)
    while live_sequences(server):  # the model may still be at work on a message
        pass

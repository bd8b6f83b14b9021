"""WebSockets with slow clients or invalid handshakes do not block the server."""

from __future__ import annotations

import json
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

LINES = [
    b"Host: a",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    b"Sec-WebSocket-Version: 13",
]


def handshake(*more: bytes, target: bytes = b"/v2/models/memory/stream", end: bytes = b"") -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, *LINES, *more, b"", end])


@pytest.fixture(scope="module")
def server(launch: Callable[..., Any], archives: dict[str, Path]) -> Iterator[Any]:
    with launch("--send-seconds=0.3", archives["memory"]) as process:
        assert process.line() == "ready: memory/1"
        yield process
        process.popen.terminate()
        assert process.popen.wait(60) == 0
        assert "Traceback" not in process.stderr()


@pytest.mark.parametrize(
    "content",
    [
        handshake(b"Cookie: " + b"a" * 9000),
        handshake(*[b"Cookie: a"] * 200),
        handshake(target=b"/" + b"a" * 9000),
        handshake(b"Content-Length: 2", end=b"{}").replace(b"GET", b"POST"),
    ],
)
def test_a_handshake_that_is_none_is_refused(server: Any, content: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(content)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"].startswith("the WebSocket's handshake: ")


def test_a_client_that_takes_no_answers_is_left(server: Any) -> None:
    x = {"name": "x", "datatype": "FP32", "shape": [60_000, 2], "data": [1] * 120_000}
    message = json.dumps({"inputs": [x]}).encode()
    frame = b"\x81\xff" + struct.pack(">Q", len(message)) + bytes(4) + message
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(server.address)
        connection.sendall(handshake())
        assert connection.recv(12) == b"HTTP/1.1 101"
        with pytest.raises(ConnectionError):
            while True:  # until the server does not take them any more, and ends it
                connection.sendall(frame)
        poll = select.poll()
        poll.register(connection, 0)
        assert poll.poll(60_000)
    live = httpx.get(f"{server.url}/v2/sequences", trust_env=False).json()["live"]
    assert live == 0

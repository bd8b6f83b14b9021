"""Draining: a server that shuts down still answers, and what requests get at the limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

Launch = Callable[..., AbstractContextManager[Any]]
MakeArchive = Callable[..., Path]

WHILE, FOREVER = 1_500_000, 1_000_000_000  # rounds


def held(rounds: float, headers: str = "", rows: int = 1) -> bytes:
    x = {"name": "x", "datatype": "FP32", "shape": [rows, 1], "data": [rounds] * rows}
    body = json.dumps({"inputs": [x]})
    head = f"POST /v2/models/held/infer HTTP/1.1\r\nHost: a\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def stream(server: Any) -> ClientConnection:
    url = server.url.replace("http", "ws", 1)
    return connect(f"{url}/v2/models/lasting/stream", proxy=None)


def message(rounds: int) -> str:
    x = {"name": "rounds", "datatype": "INT64", "shape": [1], "data": [rounds]}
    return json.dumps({"inputs": [x]})


def closing_code(socket: ClientConnection) -> int:
    """With which code the server closes a stream."""
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(60)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


def test_a_message_that_is_in_the_model_is_answered(
    launch: Launch, make_archive: MakeArchive
) -> None:
    with launch("--shutdown-seconds", 60, make_archive("lasting")) as server:
        assert server.line() == "ready: lasting/1"
        with stream(server) as socket:
            socket.send(message(1))
            assert "outputs" in json.loads(socket.recv())
            socket.send(message(WHILE))
            assert socket.ping().wait(60)  # it has been read
            server.popen.terminate()
            h = json.loads(socket.recv(60))["outputs"][0]
            assert h["data"] == [WHILE + 1]
            assert closing_code(socket) == 1012
        assert server.popen.wait(60) == 0
        assert "Traceback" not in server.stderr()


def test_who_still_waits_at_the_limit_is_told(launch: Launch, make_archive: MakeArchive) -> None:
    archives = make_archive("held"), make_archive("lasting")
    with launch("--quick-us", 0, "--shutdown-seconds", 1, *archives) as server:
        assert server.line() == "ready: held/1, lasting/1"
        with ExitStack() as stack, stream(server) as socket:
            waiting = [stack.enter_context(server.connect()) for _ in range(3)]
            waiting[0].sendall(held(FOREVER, rows=64))  # in the model
            waiting[1].sendall(held(1))
            waiting[2].sendall(held(1, "traceparent: a\r\n"))
            socket.send(message(FOREVER))
            assert socket.ping().wait(60)
            server.popen.terminate()
            for connection in waiting:
                answer = connection.recv(65536)
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert answer.endswith(b'{"error":"the server is shutting down"}')
            assert closing_code(socket) == 1012
        assert server.popen.wait(60) == 0
        assert "Traceback" not in server.stderr()

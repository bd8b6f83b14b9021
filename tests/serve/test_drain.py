"""Draining: a server that shuts down still answers, and what requests get at the limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from wire import connected, post, read

Launch = Callable[..., AbstractContextManager[Any]]
MakeArchive = Callable[..., Path]

WHILE, FOREVER = 1_500_000, 1_000_000_000  # rounds


def request(value: float, *headers: str) -> bytes:
    x = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
    return post("announced", json.dumps({"inputs": [x]}).encode(), *headers)


def waiting_rows(server: Any) -> float:
    text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    name = 'torchship_queue_rows{model="announced",version="1"} '
    return sum(float(x.removeprefix(name)) for x in text.splitlines() if x.startswith(name))


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


def test_requests_that_wait_at_the_limit_get_503(launch: Launch, make_archive: MakeArchive) -> None:
    archives = make_archive("announced"), make_archive("lasting")
    with launch("--quick-us", 0, "--shutdown-seconds", 1, *archives) as server:
        assert server.line() == "ready: announced/1, lasting/1"
        with ExitStack() as stack, stream(server) as socket:
            waiting = [stack.enter_context(connected(server)) for _ in range(3)]
            waiting[0][0].sendall(request(-1))
            assert "a call that never ends" in server.stderr("a call that never ends")
            waiting[1][0].sendall(request(1))
            waiting[2][0].sendall(request(1, "traceparent: a"))
            while waiting_rows(server) != 2:  # what was not read yet would not be answered
                pass
            socket.send(message(FOREVER))
            assert socket.ping().wait(60)
            server.popen.terminate()
            for _, answers in waiting:
                answer = read(answers)
                assert (answer.status, answer.error) == (503, "the server is shutting down")
            assert closing_code(socket) == 1012
        assert server.popen.wait(60) == 0
        assert "Traceback" not in server.stderr()

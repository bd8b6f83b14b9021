"""Pipelined requests do not change the answer to an earlier one."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

LONG = 600_000  # rounds: longer than any of the limits
TOO_LONG = 1_000_000_000
RESET = struct.pack("ii", 1, 0)

WAYS = pytest.mark.parametrize("way", ["", "traceparent: a\r\n"])  # by the connection, by the app


def held(rounds: float, headers: str = "", rows: int = 1) -> bytes:
    x = {"name": "x", "datatype": "FP32", "shape": [rows, 1], "data": [rounds] * rows}
    body = json.dumps({"inputs": [x]})
    head = f"POST /v2/models/held/infer HTTP/1.1\r\nHost: a\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.fixture(scope="module")
def server(
    launch: Callable[..., Any],
    make_in: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    archive = make_in(tmp_path_factory.mktemp("held"), "held")
    limits = [f"--{name}-seconds=0.3" for name in ("header", "body")]
    with launch("--quick-us", 0, *limits, archive) as process:
        assert process.line() == "ready: held/1"
        yield process
        assert "Traceback" not in process.stderr()


def everything(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


@WAYS
@pytest.mark.parametrize(
    "behind",
    [b"nonsense\r\n\r\n", b"POST /v2", held(1)[:-1], held(1, "traceparent: a\r\n")[:-1]],
)
def test_the_answer_comes_and_then_the_end(server: Any, way: str, behind: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(held(LONG, way) + behind)
        answers = everything(connection)
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b'"data":[1200000.0]' in answers
    # Of a body that never comes, it may be said so afterwards.
    assert answers.count(b"HTTP/1.1 ") == 1 + answers.count(b"HTTP/1.1 408 ")


@WAYS
def test_every_whole_request_is_answered_before_nonsense_ends_the_connection(
    server: Any, way: str
) -> None:
    with server.connect() as connection:
        connection.sendall(held(2, way) + held(3) + held(4, way) + b"nonsense\r\n\r\n")
        answers = everything(connection)
    heads = answers.split(b"HTTP/1.1 ")[1:]
    assert [head[:3] for head in heads] == [b"200"] * 3
    assert [b"connection: close" in head for head in heads] == [False, False, True]


@WAYS
def test_a_half_closed_side_ends_after_the_whole_requests(server: Any, way: str) -> None:
    with server.connect() as connection:
        connection.sendall(held(LONG, way) + held(1)[:-1])
        connection.shutdown(socket.SHUT_WR)
        answers = everything(connection)
    assert b'"data":[1200000.0]' in answers
    assert answers.count(b"HTTP/1.1 ") == 1


def metrics(server: Any) -> str:
    return httpx.get(f"{server.url}/metrics", trust_env=False).text


def counted(server: Any) -> float:
    line = 'torchship_requests_total{code="499",model="held",version="1"} '
    return sum(float(x.removeprefix(line)) for x in metrics(server).splitlines() if line in x)


def test_who_leaves_with_several_unanswered_is_not_served(server: Any) -> None:
    before = counted(server)
    with server.connect() as busy, server.connect() as leaver, server.connect() as last:
        busy.sendall(held(3 * LONG, rows=64))  # a whole batch
        leaver.sendall(held(TOO_LONG, "traceparent: a\r\n") * 2)
        while 'queue_rows{model="held",version="1"} 1.0' not in metrics(server):
            pass
        leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        leaver.close()
        last.sendall(held(1))
        assert busy.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert last.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert counted(server) == before + 1

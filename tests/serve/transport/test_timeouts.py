"""Clients that are slow, that stop, that close one side: the server goes on for the others."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from clocked import ClockedServer, clocked
from wire import connected, peak, read

Launch = Callable[..., Any]

PATH = "/v2/models/logarithm/infer"
BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[2],"data":[1,1]}]}'
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
ONE_WAY = socket.SHUT_WR
LIMIT = 10  # seconds on the server's clock


@pytest.fixture(scope="module")
def served(archives: dict[str, Path]) -> Iterator[ClockedServer]:
    """Return a server on whose clock each limit is as long as the others."""
    limits: dict[str, Any] = {f"{name}_seconds": LIMIT for name in ("header", "body", "send")}
    with clocked(*(archives[name] for name in ("logarithm", "slow", "half")), **limits) as process:
        yield process


@pytest.fixture
def server(served: ClockedServer, caplog: pytest.LogCaptureFixture) -> Iterator[ClockedServer]:
    """Return the server, which answers after each test as before, and has no complaint."""
    yield served
    answered = httpx.post(f"{served.url}{PATH}", content=BODY, trust_env=False, timeout=60)
    assert answered.json()["outputs"][0]["data"] == [0, 0]
    assert not [record for record in caplog.records if record.exc_info]


def everything(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("begun", [b"", HEAD[:1], HEAD[:-2]])
def test_a_client_that_does_not_finish_its_header_is_disconnected(
    server: ClockedServer, begun: bytes
) -> None:
    with server.connect() as connection:
        connection.sendall(begun)
        server.advance(LIMIT)
        assert everything(connection) == b""


def test_a_client_that_does_not_finish_its_second_header_is_disconnected(
    server: ClockedServer,
) -> None:
    with connected(server) as (connection, stream):
        connection.sendall(HEAD + BODY + HEAD[:9])
        assert read(stream).status == 200
        server.advance(LIMIT)
        assert stream.read() == b""


def test_a_byte_now_and_then_does_not_prolong_it(server: ClockedServer) -> None:
    with server.connect() as connection:
        connection.sendall(HEAD[:-2] + b"X-Slow: ")
        for _ in range(LIMIT - 1):
            server.advance(1)
            connection.send(b"x")
        server.settle()
        assert not select.select([connection], [], [], 0)[0]
        server.advance(1)
        assert connection.recv(1) == b""


@pytest.mark.parametrize("start", [HEAD[:-2] + b"X: ", HEAD[:6]])
def test_a_head_has_an_end(start: bytes, launch: Launch, archives: dict[str, Path]) -> None:
    with launch("--header-seconds=60", archives["logarithm"]) as server:
        assert server.line() == "ready: logarithm/1"
        before = peak(server)
        with server.connect() as connection:
            connection.sendall(start)
            with suppress(ConnectionError):  # what is on its way meets a closed connection
                for _ in range(1 << 10):
                    connection.sendall(b"x" * (1 << 16))
            with suppress(ConnectionResetError):
                assert connection.recv(13) == b"HTTP/1.1 431 "
        assert peak(server) - before < 16 << 20


@pytest.mark.parametrize("sent", [b"", BODY[:1], BODY[:-1]])
def test_a_client_that_does_not_finish_its_body_gets_408(
    server: ClockedServer, sent: bytes
) -> None:
    with server.connect() as connection:
        connection.sendall(HEAD + sent)
        server.advance(LIMIT)
        head, _, body = everything(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body) == {"error": "the body is late: expected the whole body within 10 s"}


def test_a_refused_request_need_not_be_read_to_its_end(server: ClockedServer) -> None:
    with server.connect() as connection:
        connection.sendall(HEAD.replace(b"logarithm", b"chess") + BODY[:-1])
        server.advance(LIMIT)
        answers = everything(connection)
    assert answers.count(b"HTTP/1.1") == 1
    assert answers.startswith(b"HTTP/1.1 404 ")


def test_slow_clients_do_not_hold_up_the_others(server: ClockedServer) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(200)]
        for number, connection in enumerate(slow):
            connection.sendall((HEAD + BODY)[: 20 if number % 2 else -5])
        with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
            for _ in range(50):
                answered = client.post(PATH, content=BODY)
                assert answered.json()["outputs"][0]["data"] == [0, 0]
        server.advance(LIMIT)
        for number, connection in enumerate(slow):
            assert everything(connection)[:12] == (b"" if number % 2 else b"HTTP/1.1 408")


def test_a_client_that_does_not_read_its_answer_is_disconnected(server: ClockedServer) -> None:
    values = np.ones(4_000_000, "<u2").tobytes()
    tensor = {"name": "x", "datatype": "BF16", "shape": [len(values) // 2]} | {
        "parameters": {"binary_data_size": len(values)}
    }
    json_part = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}})
    head = (
        "POST /v2/models/half/infer HTTP/1.1\r\nHost: a\r\n"
        f"Inference-Header-Content-Length: {len(json_part)}\r\n"
        f"Content-Length: {len(json_part) + len(values)}\r\n\r\n{json_part}"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(server.address)
        connection.sendall(head.encode() + values)
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        assert poll.poll(60_000)  # the answer has begun; nothing of it is read
        server.advance(LIMIT)
        poll.modify(connection, 0)  # errors only
        assert poll.poll(60_000)


def rounds(number: int, version: str = "1.1") -> bytes:
    body = json.dumps(
        {"inputs": [{"name": "rounds", "datatype": "INT64", "shape": [1], "data": [number]}]}
    )
    head = f"POST /v2/models/slow/infer HTTP/{version}\r\nHost: a\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def test_the_limits_are_not_for_the_model(server: ClockedServer) -> None:
    with server.connect() as connection:
        connection.sendall(rounds(250_000))  # longer than it takes to move the clock
        server.advance(2 * LIMIT)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_client_that_closed_its_sending_side_gets_its_answers(
    server: ClockedServer, version: str, times: int
) -> None:
    times = times if version == "1.1" else 1
    with server.connect() as connection:
        connection.sendall(rounds(20_000, version) * times)
        connection.shutdown(ONE_WAY)
        answers = everything(connection)
    assert answers.count(b"HTTP/1.1 200 ") == times
    assert answers.count(b'"outputs"') == times
    assert answers.count(b"HTTP/1.1 100 ") <= (version == "1.1")


@pytest.mark.parametrize("sent", [HEAD[:10], HEAD, HEAD + BODY[:-1]])
def test_a_client_that_closes_its_sending_side_too_early_is_disconnected(
    server: ClockedServer, sent: bytes
) -> None:
    with server.connect() as connection:
        connection.sendall(sent)
        connection.shutdown(ONE_WAY)
        assert everything(connection) == b""

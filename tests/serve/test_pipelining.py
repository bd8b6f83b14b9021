"""Pipelined requests do not change the answer to an earlier one."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from torch import Tensor

from clocked import ClockedServer, Line, clocked
from programs import Loader, Run
from torchship.script.format.tree import Flat

HELD, UNWANTED = 5, 7  # values that the model is asked for
LIMIT = 10  # seconds on the server's clock
WAIT = 60  # seconds until a test that waits for an event has failed
RESET = struct.pack("ii", 1, 0)

WAYS = pytest.mark.parametrize("way", ["", "traceparent: a\r\n"])  # by the connection, by the app


def post(value: float, headers: str = "", rows: int = 1) -> bytes:
    x = {"name": "x", "datatype": "FP32", "shape": [rows, 1], "data": [value] * rows}
    body = json.dumps({"inputs": [x]})
    head = f"POST /v2/models/held/infer HTTP/1.1\r\nHost: a\r\n{headers}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


class HeldCalls:
    """Holds calls of the model with the value `HELD` until they may go on."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.may_go_on = threading.Event()
        self.values: list[float] = []
        """The largest value of each call."""

    def around(self, run: Run, method: str, inputs: Mapping[str, Tensor]) -> Flat:
        value = inputs["x"].max().item()
        self.values.append(value)
        if value == HELD:
            self.entered.set()
            assert self.may_go_on.wait(WAIT)
        return run()


@pytest.fixture(scope="module")
def loader() -> Loader:
    return Loader()


@pytest.fixture(scope="module")
def served(
    loader: Loader, make_in: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClockedServer]:
    archive = make_in(tmp_path_factory.mktemp("held"), "held")
    limits = {f"{name}_seconds": LIMIT for name in ("header", "body")}
    with clocked(archive, loader=loader, quick_us=0, **limits) as server:
        yield server


@pytest.fixture
def server(served: ClockedServer, caplog: pytest.LogCaptureFixture) -> Iterator[ClockedServer]:
    yield served
    assert not [record for record in caplog.records if record.exc_info]


@pytest.fixture
def calls(loader: Loader) -> Iterator[HeldCalls]:
    calls = HeldCalls()
    loader.around = calls.around
    yield calls
    calls.may_go_on.set()
    loader.around = None


def everything(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


@WAYS
@pytest.mark.parametrize(
    "behind",
    [b"nonsense\r\n\r\n", b"POST /v2", post(1)[:-1], post(1, "traceparent: a\r\n")[:-1]],
)
def test_a_running_request_is_answered_whatever_comes_late_behind_it(
    server: ClockedServer, calls: HeldCalls, way: str, behind: bytes
) -> None:
    with server.connect() as connection:
        connection.sendall(post(HELD, way) + behind)
        assert calls.entered.wait(WAIT)
        server.advance(2 * LIMIT)
        server.settle()
        calls.may_go_on.set()
        first = connection.recv(65536)
        server.advance(2 * LIMIT)  # a body may be waited for only once its turn has come
        answers = first + everything(connection)
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert b'"data":[10.0]' in answers
    # A body that never comes may be refused afterwards.
    assert answers.count(b"HTTP/1.1 ") == 1 + answers.count(b"HTTP/1.1 408 ")


@WAYS
def test_every_whole_request_is_answered_before_nonsense_ends_the_connection(
    server: ClockedServer, way: str
) -> None:
    with server.connect() as connection:
        connection.sendall(post(2, way) + post(3) + post(4, way) + b"nonsense\r\n\r\n")
        answers = everything(connection)
    heads = answers.split(b"HTTP/1.1 ")[1:]
    assert [head[:3] for head in heads] == [b"200"] * 3
    assert [b"connection: close" in head for head in heads] == [False, False, True]


@WAYS
def test_a_half_closed_connection_ends_after_its_whole_requests(
    server: ClockedServer, calls: HeldCalls, way: str
) -> None:
    with server.connect() as connection:
        connection.sendall(post(HELD, way) + post(1)[:-1])
        connection.shutdown(socket.SHUT_WR)
        assert calls.entered.wait(WAIT)
        server.settle()
        calls.may_go_on.set()
        answers = everything(connection)
    assert b'"data":[10.0]' in answers
    assert answers.count(b"HTTP/1.1 ") == 1


def waiting_rows(server: ClockedServer) -> float:
    text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    name = 'torchship_queue_rows{model="held",version="1"} '
    return sum(float(x.removeprefix(name)) for x in text.splitlines() if x.startswith(name))


def test_pipelined_requests_of_a_client_that_left_are_not_run(
    server: ClockedServer, calls: HeldCalls
) -> None:
    before = server.counted().get(Line("held", 499), 0)
    with server.connect() as busy, server.connect() as leaving, server.connect() as last:
        busy.sendall(post(HELD, rows=64))  # a whole batch
        assert calls.entered.wait(WAIT)
        leaving.sendall(post(UNWANTED, "traceparent: a\r\n") * 2)
        while waiting_rows(server) != 1:
            pass
        leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        leaving.close()
        server.settle()
        last.sendall(post(1))
        calls.may_go_on.set()
        assert busy.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert last.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert calls.values == [HELD, 1]
    assert server.counted()[Line("held", 499)] == before + 1

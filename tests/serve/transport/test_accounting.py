"""Whatever is answered is logged and counted once, with the status that was sent."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
import websockets.exceptions

from clocked import ClockedServer, Line, clocked
from wire import Answer, chunked, connected, post, read, row

LATE = 60  # seconds after which a body is late
NAMED = "logarithm"
TRACED = "traceparent: 1"  # has the application answer
BODY = row(1)
PAIR = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]}]}'
CUT = post(NAMED, BODY)[:-1]
CUT_FOR_APPLICATION = post(NAMED, BODY, TRACED)[:-1]
STREAM = (
    b"GET /v2/models/memory/stream HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
NO_GET = 405 if hasattr(websockets.exceptions, "InvalidMethod") else 400  # as websockets says
HEALTH = "/v2/health/live"
PROBE = Line("", 200)  # of `settle`, which asks for the health
NO_HTTP = b"\x16\x03\x01\x02\x00"
LARGE_TENSOR = b'{"inputs":[{"name":"obs","datatype":"UINT8","shape":[9,510],"data":[%b1]}]}' % (
    b"1," * 4589
)
NO_CHUNK = chunked(NAMED, b"{}").replace(b"2\r\n", b"z\r\n")
STATE = b"PUT /v2/models/memory/sequences/1/state HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"


@pytest.fixture(scope="module")
def served(archives: dict[str, Path]) -> Iterator[ClockedServer]:
    with clocked(
        *(archives[name] for name in ("logarithm", "memory", "tiny")),
        body_seconds=LATE,
        max_tensor_bytes=1 << 12,
        max_body_bytes=1 << 20,
    ) as server:
        yield server


@pytest.fixture
def server(served: ClockedServer) -> ClockedServer:
    served.log.records.clear()
    return served


def difference(now: dict[Line, int], before: dict[Line, int]) -> Counter[Line]:
    return Counter(now) - Counter(before)


def answers(stream: IO[bytes]) -> list[Answer]:
    """Read answers until the connection ends."""
    found = []
    while stream.peek(1):  # type: ignore[attr-defined]
        found.append(read(stream))
    return found


def statuses(stream: IO[bytes]) -> list[int]:
    """Read answers until the connection ends, and return their statuses."""
    return [answer.status for answer in answers(stream)]


ANSWERED: dict[str, tuple[list[bytes], list[Line]]] = {
    "an answer": ([post(NAMED, BODY, "Connection: close")], [Line(NAMED, 200)]),
    "no HTTP": ([NO_HTTP], [Line("", 400)]),
    "no HTTP after an answer": ([post(NAMED, BODY), NO_HTTP], [Line(NAMED, 200), Line("", 400)]),
    "no HTTP after an answer of the application": (
        [post(NAMED, BODY, TRACED), NO_HTTP],
        [Line(NAMED, 200), Line("", 400)],
    ),
    "no HTTP behind a request": ([post(NAMED, BODY, TRACED) + NO_HTTP], [Line(NAMED, 200)]),
    "no HTTP after a refusal that did not wait for the body": (
        [post("nobody", b"", length=2), b"{}" + NO_HTTP],
        [Line("", 404), Line("", 400)],
    ),
    "a chunk that is none": ([NO_CHUNK], [Line(NAMED, 400)]),
    "a chunk that is none, behind a request": (
        [post(NAMED, BODY), NO_CHUNK],
        [Line(NAMED, 200), Line(NAMED, 400)],
    ),
    "a path that is none": ([b"GET http:// HTTP/1.1\r\nHost: x\r\n\r\n"], [Line("", 400)]),
    "no Host": ([post(NAMED, BODY, host=())], [Line(NAMED, 400)]),
    "a coding": (
        [chunked(NAMED, b"{}").replace(b": chunked", b": gzip, chunked")],
        [Line(NAMED, 501)],
    ),
    "another version": ([post(NAMED, BODY).replace(b"HTTP/1.1", b"HTTP/2.0")], [Line(NAMED, 505)]),
    "a body that is announced as too large": (
        [post(NAMED, b"", length=1 << 30)],
        [Line(NAMED, 413)],
    ),
    "chunks that are too many": (
        [chunked(NAMED, b" " * (2 << 20)).removesuffix(b"0\r\n\r\n")],
        [Line(NAMED, 413)],
    ),
    "a tensor that is too large": ([post("tiny", LARGE_TENSOR)], [Line("tiny", 413)]),
    "a long head": ([b"GET /v2/x HTTP/1.1\r\nX: " + b"x" * (1 << 18)], [Line("", 431)]),
    "long trailers": (
        [chunked(NAMED, b"{}").removesuffix(b"\r\n") + b"X: " + b"x" * (1 << 20)],
        [Line(NAMED, 431)],
    ),
    "a handshake without a key": (
        [STREAM.replace(b"Sec-WebSocket-Key", b"X")],
        [Line("", 400)],
    ),
    "a handshake of another version": ([STREAM.replace(b": 13", b": 12")], [Line("", 400)]),
    "a handshake behind a request": ([post(NAMED, BODY) + STREAM], [Line(NAMED, 200)]),
    "a handshake behind a request of the application": (
        [post(NAMED, BODY, TRACED) + STREAM],
        [Line(NAMED, 200)],
    ),
    "a handshake that is no GET": ([STREAM.replace(b"GET", b"PUT")], [Line("", NO_GET)]),
    "a handshake with an unknown path": (
        [STREAM.replace(b"memory/stream", b"memory/s")],
        [Line("", 404)],
    ),
    "a handshake with an unknown model": ([STREAM.replace(b"memory", b"nobody")], [Line("", 404)]),
    "a handshake of another page": (
        [STREAM.replace(b"Host: x", b"Host: x\r\nOrigin: http://evil.example")],
        [Line("", 403)],
    ),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_every_answer_is_accounted_for_once(server: ClockedServer, name: str) -> None:
    parts, expected = ANSWERED[name]
    before = server.counted()
    with connected(server) as (connection, stream):
        found = []
        for part in parts[:-1]:
            connection.sendall(part)
            found.append(read(stream).status)
        connection.sendall(parts[-1])
        found += statuses(stream)
    assert found == [line.status for line in expected]
    assert server.log.wait_for(len(expected)) == expected
    assert difference(server.counted(), before) == Counter(expected)
    assert server.log.lines == expected


TOO_LATE = {
    "a body": (CUT, [Line(NAMED, 408)]),
    "a body for the application": (CUT_FOR_APPLICATION, [Line(NAMED, 408)]),
    "a body after 100 Continue": (
        post(NAMED, b"", "Expect: 100-continue", length=9),
        [Line(NAMED, 100), Line(NAMED, 408)],
    ),
    "chunks": (chunked(NAMED, BODY)[:-9], [Line(NAMED, 408)]),
    "a body of a route": (STATE, [Line("", 408)]),
    "a body behind a request": (post(NAMED, BODY) + CUT, [Line(NAMED, 200), Line(NAMED, 408)]),
    "a body behind one of the application": (
        post(NAMED, BODY, TRACED) + CUT_FOR_APPLICATION,
        [Line(NAMED, 200), Line(NAMED, 408)],
    ),
    "a body that nobody waits for": (post("nobody", b"{", length=9), [Line("", 404)]),
}


REFUSED = {
    **{
        name: ANSWERED[name][0]
        for name in (
            *("no HTTP", "no HTTP after an answer", "a chunk that is none", "a path that is none"),
            *("no Host", "a coding", "another version", "a long head", "long trailers"),
            "no HTTP after a refusal that did not wait for the body",
        )
    },
    "for the application": [
        NO_CHUNK.replace(b"\r\n", b"\r\nX-Request-Id: seen\r\n" + TRACED.encode() + b"\r\n", 1)
    ],
    "late": [CUT],
    "late, under its own id": [post(NAMED, BODY, "X-Request-Id: seen")[:-1]],
    "late for the application": [CUT_FOR_APPLICATION],
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_has_its_date_and_the_id_under_which_it_is_logged(
    server: ClockedServer, name: str
) -> None:
    with connected(server) as (connection, stream):
        found = []
        for part in REFUSED[name][:-1]:
            connection.sendall(part)
            found.append(read(stream))
        connection.sendall(REFUSED[name][-1])
        if name.startswith("late"):
            server.advance(LATE)
        found += answers(stream)
    server.log.wait_for(len(found) + name.startswith("late"))
    logged = [vars(r)["request_id"] for r in server.log.records if vars(r)["path"] != HEALTH]
    assert [answer.headers["x-request-id"] for answer in found] == logged
    assert all(answer.headers["date"] for answer in found)
    assert ("seen" in logged) == (name in ("for the application", "late, under its own id"))


@pytest.mark.parametrize("name", TOO_LATE)
def test_a_late_body_is_accounted_for_once(server: ClockedServer, name: str) -> None:
    content, expected = TOO_LATE[name]
    before = server.counted()
    with connected(server) as (connection, stream):
        connection.sendall(content)
        found = [read(stream).status for _ in expected[:-1]]
        if name == "a body that nobody waits for":
            found.append(read(stream).status)
        server.advance(LATE)
        found += statuses(stream)
    assert found == [line.status for line in expected]
    expected = [line for line in expected if line.status != 100]
    answered = [line for line in server.log.wait_for(len(expected) + 1) if line != PROBE]
    assert answered == expected
    counted = difference(server.counted(), before)
    assert counted.pop(PROBE) == 1
    assert counted == Counter(expected)


@pytest.mark.parametrize("content", [CUT, CUT_FOR_APPLICATION, STATE])
def test_a_client_that_leaves_in_its_body_is_accounted_for_once(
    server: ClockedServer, content: bytes
) -> None:
    expected = Line("" if content == STATE else NAMED, 499)
    before = server.counted()
    with connected(server) as (connection, stream):
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        assert stream.read() == b""
    assert server.log.wait_for(1) == [expected]
    assert difference(server.counted(), before) == Counter([expected])


AT_THE_END = {
    "a body that comes": (CUT, [Line(NAMED, 503)]),
    "a body that comes for the application": (CUT_FOR_APPLICATION, [Line(NAMED, 503)]),
    "a body that comes behind a request": (
        post(NAMED, BODY) + CUT,
        [Line(NAMED, 200), Line(NAMED, 503)],
    ),
    "a header that comes": (CUT[:20], []),
    "nothing": (b"", []),
}


@pytest.mark.parametrize("name", AT_THE_END)
def test_what_waits_when_the_server_ends_is_accounted_for_once(
    archives: dict[str, Path], name: str
) -> None:
    content, expected = AT_THE_END[name]
    with clocked(archives[NAMED], shutdown_seconds=30, body_seconds=600) as server:
        with connected(server) as (connection, stream):
            connection.sendall(content)
            server.settle()
            server.end()
            assert statuses(stream) == [line.status for line in expected]
        assert [line for line in server.log.lines if line != PROBE] == expected


def test_a_request_behind_the_last_answer_is_not_answered(archives: dict[str, Path]) -> None:
    """The server ends while the body of the first comes, which is answered at once."""
    with clocked(archives["memory"], quick_us=10**9, body_seconds=600) as server:
        whole = post("memory", PAIR)
        with connected(server) as (connection, stream):
            connection.sendall(whole[:-1])
            server.settle()
            server.stop_listening()
            connection.sendall(whole[-1:] + whole + NO_HTTP)
            answer = read(stream)
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert stream.read() == b""
        server.end()
        assert [line for line in server.log.lines if line != PROBE] == [Line("memory", 200)]

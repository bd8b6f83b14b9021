"""Misbehaving clients: the real process answers, and never with 500."""

import gzip
import json
import selectors
import socket
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

from wire import Answer, connected, peak, post, read, row

MIB = 1 << 20
OBS = np.arange(2 * 510, dtype=np.uint8).reshape(2, 510)


def rounds(count: int, **more: object) -> bytes:
    x = {"name": "rounds", "datatype": "INT64", "shape": [1], "data": [count]}
    return json.dumps({"inputs": [x], **more}).encode()


def assert_well(server: Any) -> None:
    with connected(server) as (connection, stream):
        connection.sendall(post("logarithm", row(1)))
        answer = read(stream)
    assert answer.status == 200
    assert json.loads(answer.body)["outputs"][0]["data"] == [0.0]


@pytest.mark.parametrize("more", [(), ("Expect: 100-continue",), ("Content-Encoding: gzip",)])
@pytest.mark.parametrize("size", [2 << 30, 1 << 70])
def test_a_huge_body_that_is_announced_is_refused_unread(
    server: Any, more: tuple[str, ...], size: int
) -> None:
    with connected(server) as (connection, stream):
        connection.sendall(post("tiny", b"", *more, length=size))
        answer = read(stream)
        if size > 1 << 64 and answer.status == 400:  # more than the parser can count
            return
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert answer.error == "the body is too large: expected at most 1048576 bytes"
        assert stream.read() == b""


def test_a_huge_body_in_chunks_is_refused_when_it_is_too_large(server: Any) -> None:
    head = "POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with connected(server) as (connection, stream):
        connection.sendall(head.encode() + chunk * 17)  # and no end
        assert read(stream).status == 413
    assert_well(server)


def bomb(kind: str, size: int) -> bytes:
    """A stream that inflates to `size` bytes, put together from blocks that need no history."""
    stream = zlib.compressobj(9, wbits=-15)
    block = stream.compress(bytes(MIB)) + stream.flush(zlib.Z_FULL_FLUSH)
    start = {"gzip": gzip.compress(b"")[:10], "deflate": b"\x78\x9c"}[kind]
    return start + block * (size // MIB) + stream.flush()


def test_oversized_compressed_bodies_are_refused_without_being_inflated(server: Any) -> None:
    bombs = [(kind, bomb(kind, 512 * MIB)) for kind in ("gzip", "deflate")]
    assert_well(server)
    before = peak(server)

    def throw(number: int) -> Answer:
        kind, content = bombs[number % 2]
        assert len(content) < MIB
        with connected(server) as (connection, stream):
            connection.sendall(post("tiny", content, f"Content-Encoding: {kind}"))
            return read(stream)

    with ThreadPoolExecutor(8) as pool:
        for answer in pool.map(throw, range(16)):
            assert answer.status == 413
            assert answer.error == "the inflated body is too large: expected at most 1048576 bytes"
    assert peak(server) - before < 128 * MIB
    assert_well(server)


def test_a_queue_that_overflows_says_so_at_once_and_recovers(launch: Any, archives: Any) -> None:
    with launch("--max-queue", 4, archives["slow"]) as process, ExitStack() as stack:
        assert process.line() == "ready: slow/1"
        selector = stack.enter_context(selectors.DefaultSelector())
        for number in range(10):
            connection, stream = stack.enter_context(connected(process))
            selector.register(connection, selectors.EVENT_READ, stream)
            connection.sendall(post("slow", rounds(1 if number else 200_000)))
        arrived: list[Answer] = []
        while len(arrived) < 10:
            for key, _ in selector.select():
                arrived.append(read(key.data))
                selector.unregister(key.fileobj)
        statuses = [answer.status for answer in arrived]
        # One runs and four wait; the one that runs may still have waited when the others came.
        refused = statuses.count(429)
        assert refused in (5, 6)
        assert statuses == [429] * refused + [200] * (10 - refused)
        assert "the queue is full" in arrived[0].error
        with connected(process) as (connection, stream):
            connection.sendall(post("slow", rounds(1)))
            assert read(stream).status == 200


def test_a_request_whose_client_left_is_not_run(launch: Any, archives: Any) -> None:
    with launch(archives["slow"]) as process:
        assert process.line() == "ready: slow/1"
        with connected(process) as (first, answers), connected(process) as (last, more):
            first.sendall(post("slow", rounds(200_000)))
            with connected(process) as (leaver, told):
                # It would keep the model busy for longer than a socket waits here.
                body = rounds(1_000_000_000)
                leaver.sendall(post("slow", b"", "Expect: 100-continue", length=len(body)))
                assert told.readline().startswith(b"HTTP/1.1 100")
                leaver.sendall(body)
            last.sendall(post("slow", rounds(1)))
            assert read(answers).status == 200
            assert read(more).status == 200


MALFORMED = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    b"\0" * 64,
    b"GET\r\n\r\n",
    b"GET /v2 HTTP/9.9\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\nno colon here\r\n\r\n",
    b"GET /v2 HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
    b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: ten\r\n\r\n",
    b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n"
    b"\r\n{}",
    b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"-1\r\n\r\n",
    b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"fffffffffffffffff\r\n\r\n",
]


@pytest.mark.parametrize("content", MALFORMED)
def test_what_is_no_http_is_refused_and_the_connection_closed(server: Any, content: bytes) -> None:
    with connected(server) as (connection, stream):
        connection.sendall(content)
        answer = read(stream)
        assert (answer.status, answer.headers["connection"]) == (400, "close")
        assert answer.error == "invalid http request received"
        assert stream.read() == b""
    assert_well(server)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/..%2f..%2fetc%2fpasswd/infer",
        "/v2/models/%2e%2e/infer",
        "/v2/models/../models/tiny2/infer",
        "/v2/models//infer",
        "/v2/models/%00/infer",
        "/v2/models/%ff%fe/infer",
        "/v2/models/tiny/versions/%2e%2e%2f/infer",
        "/v2/models/tiny/versions//infer",
        "/v2/models/tiny/infer/",
        "/v2/models/tiny%0d%0aX: y/infer",
        "/v2/models/" + "a" * 30_000 + "/infer",
    ],
)
def test_tricks_in_names_find_nothing(server: Any, path: str) -> None:
    with connected(server) as (connection, stream):
        lines = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}"
        connection.sendall(lines.encode())
        answer = read(stream)
    assert answer.status in (400, 404)
    if answer.status == 404:
        assert "not found" in answer.error or "is unknown" in answer.error
    assert "x" not in answer.headers
    assert_well(server)


def test_a_body_in_chunks_of_any_size(server: Any) -> None:
    body = row(1, id="seven")
    for size in (1, 7, len(body)):
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        with connected(server) as (connection, stream):
            connection.sendall(
                b"POST /v2/models/logarithm/infer HTTP/1.1\r\nHost: x\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            for piece in pieces:
                connection.sendall(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece))
            connection.sendall(b"0\r\nTrailer: x\r\n\r\n")
            answer = read(stream)
        assert answer.status == 200
        assert json.loads(answer.body)["id"] == "seven"


def test_pipelined_requests_are_answered_in_order(server: Any) -> None:
    """The first takes longest, and is answered first."""
    requests = [
        post("slow", rounds(20_000, id="0")),
        post("logarithm", row(1, id="1")),
        b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n",
        post("logarithm", b"{", length=1),
        post("logarithm", row(1, id="4")),
    ]
    with connected(server) as (connection, stream):
        connection.sendall(b"".join(requests))
        answers = [read(stream) for _ in requests]
    assert [answer.status for answer in answers] == [200, 200, 200, 400, 200]
    assert [json.loads(answers[place].body)["id"] for place in (0, 1, 4)] == ["0", "1", "4"]
    assert json.loads(answers[2].body) == {"ready": True}


@pytest.mark.parametrize("upgrade", ["h2c", "TLS/1.0, foo"])
def test_an_upgrade_that_is_not_made_is_passed_over(server: Any, upgrade: str) -> None:
    """As Java's client asks, with every first request of a connection."""
    more = (
        "Connection: Upgrade, HTTP2-Settings",
        f"Upgrade: {upgrade}",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    )
    asked = post("logarithm", row(1, id="a"), *more)
    chunked = post("logarithm", b"", *more, "Transfer-Encoding: chunked")
    chunked = chunked.replace(b"Content-Length: 0\r\n", b"")
    body = row(1, id="b")
    last = post("logarithm", row(1, id="c"), more[0] + ", close", *more[1:])
    whole = asked * 100 + chunked + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) + last
    with connected(server) as (connection, stream):
        for part in (whole[:40], whole[40:300], whole[300:]):
            connection.sendall(part)
        answers = [read(stream) for _ in range(102)]
        assert stream.read() == b""
    assert [json.loads(answer.body)["id"] for answer in answers] == [*"a" * 100, "b", "c"]
    assert "connection" not in answers[0].headers
    assert_well(server)


def test_a_length_with_many_zeros_is_a_length(server: Any) -> None:
    body = row(1)
    content = post("logarithm", body).replace(b"Length: ", b"Length: " + b"0" * 5000)
    other = content.replace(b"Host: localhost", b"Host: localhost\r\nOrigin: http://localhost")
    index = b"POST /v2/repository/index HTTP/1.1\r\nHost: x\r\nContent-Length: %b2\r\n\r\n{}"
    with connected(server) as (connection, stream):
        connection.sendall(content + other + index % (b"0" * 5000))
        assert [read(stream).status for _ in range(3)] == [200, 200, 200]


def test_a_content_length_that_lies(server: Any) -> None:
    body = row(1)
    with connected(server) as (connection, stream):  # too short: the rest is no request
        connection.sendall(post("logarithm", body, length=len(body) - 5))
        assert read(stream).status == 400
        assert b" 500 " not in stream.read()
    with connected(server) as (connection, stream):  # too long: the client ends before
        connection.sendall(post("logarithm", body, length=len(body) + 5))
        connection.shutdown(socket.SHUT_WR)
        assert b" 500 " not in stream.read()
    assert_well(server)


@pytest.mark.parametrize("ending", [socket.SHUT_WR, socket.SHUT_RDWR])
def test_half_closed_sockets_do_not_affect_other_clients(server: Any, ending: int) -> None:
    for content in (
        b"",
        b"POST /v2/mod",
        post("slow", rounds(2_000)),
        post("tiny", b"{", length=9),
    ):
        with connected(server) as (connection, stream):
            connection.sendall(content)
            connection.shutdown(ending)
            assert b" 500 " not in stream.read()
    assert_well(server)


def test_verbs(server: Any) -> None:
    cases = [
        ("HEAD", "/v2/health/ready", 200, None),
        ("HEAD", "/v2/models/tiny/ready", 200, None),
        ("HEAD", "/v2/models/nobody/ready", 404, None),
        ("HEAD", "/v2/models/tiny/infer", 405, "POST"),
        ("PUT", "/v2/models/tiny/infer", 405, "POST"),
        ("DELETE", "/v2/models/tiny", 405, "GET, HEAD"),
        ("POST", "/v2/health/live", 405, "GET, HEAD"),
        ("GET", "/v2/repository/index", 405, "POST"),
        ("BREW", "/v2", 400, None),  # no HTTP verb that the parser knows
    ]
    for verb, path, status, allow in cases:
        with connected(server) as (connection, stream):
            connection.sendall(
                f"{verb} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
            content = stream.read()
        head, _, body = content.partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode()), (verb, path, content)
        assert (verb == "HEAD") == (body == b"")
        lines = head.decode().lower().split("\r\n")
        assert [line for line in lines if line.startswith("allow:")] == (
            [f"allow: {allow.lower()}"] if allow else []
        )


def test_paths_that_end_otherwise(server: Any) -> None:
    for path, status in (
        ("/v2/health/ready?verbose=1", 200),
        ("/v2/health/ready/", 404),
        ("/v2/health/live/x", 404),
        ("/v2/models/tiny/ready/", 404),
        ("/V2/health/ready", 404),
    ):
        with connected(server) as (connection, stream):
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = read(stream)
        assert answer.status == status
        if status == 404:
            assert answer.error == f"GET {path}: not found"

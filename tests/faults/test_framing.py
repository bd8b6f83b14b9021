"""Request heads that a proxy and the server could read differently, and late trailers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wire import ask, chunked, connected, post, read, row

KEY = "0123456789abcdef"
BODY = row(1)

REFUSED = {
    "no Host": (400, post("logarithm", BODY, host=())),
    "two Hosts": (400, post("logarithm", BODY, host=("Host: x", "Host: y"))),
    "a Host that is none": (400, post("logarithm", BODY, host=("Host: x/y",))),
    "gzip, chunked": (501, chunked("logarithm", BODY).replace(b": chunked", b": gzip, chunked")),
    "chunked, gzip": (400, chunked("logarithm", BODY).replace(b": chunked", b": chunked, gzip")),
    "identity": (501, chunked("logarithm", BODY).replace(b": chunked", b": identity")),
    "chunked twice": (400, chunked("logarithm", BODY, "Transfer-Encoding: chunked")),
    "chunked and a length": (400, chunked("logarithm", BODY, "Content-Length: 5")),
    "chunked in HTTP/1.0": (400, chunked("logarithm", BODY).replace(b"HTTP/1.1", b"HTTP/1.0")),
    "two lengths": (400, post("logarithm", BODY, f"Content-Length: {len(BODY)}")),
    "a folded line": (400, post("logarithm", BODY, "X: a\r\n b")),
    "a space before the colon": (400, post("logarithm", BODY, "X : a")),
    "a bare CR": (400, post("logarithm", BODY, "X: a\rb")),
    "a bare LF": (400, post("logarithm", BODY, "X: a\nTransfer-Encoding: chunked")),
    "a NUL": (400, post("logarithm", BODY, "X: a\0b")),
    "HTTP/2.0": (505, post("logarithm", BODY).replace(b"HTTP/1.1", b"HTTP/2.0")),
    "HTTP/0.9": (505, b"GET /v2\r\n\r\n"),
}


@pytest.mark.parametrize("upgrade", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_an_ambiguous_head_is_refused_and_nothing_behind_it_is_read(
    server: Any, name: str, upgrade: bool
) -> None:
    status, content = REFUSED[name]
    if upgrade:  # which is passed over by another way
        content = content.replace(b"\r\n", b"\r\nConnection: upgrade\r\nUpgrade: h2c\r\n", 1)
    with connected(server) as (connection, stream):
        connection.sendall(content + post("logarithm", BODY))
        answer = read(stream)
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        assert stream.read() == b""


def test_http_1_0_needs_no_host(server: Any) -> None:
    content = post("logarithm", BODY, host=()).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert ask(server, content).status == 200


@pytest.mark.parametrize("more", [(), ("Origin: http://localhost",)])
def test_space_around_a_value_is_no_part_of_it(server: Any, more: tuple[str, ...]) -> None:
    """On both paths: a request with `Origin` goes through the application."""
    answer = ask(server, post("logarithm", BODY, "X-Request-Id: \t mine \t ", *more))
    assert (answer.status, answer.headers["x-request-id"]) == (200, "mine")


@pytest.fixture(scope="module")
def guarded(
    launch: Callable[..., Any], archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Any:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"us:{KEY}\n")
    with launch("--api-keys", keys, archives["logarithm"]) as process:
        assert process.line() == "ready: logarithm/1"
        yield process


@pytest.mark.parametrize("field", [f"X-API-Key: {KEY}", f"Authorization: Bearer {KEY}"])
def test_trailers_are_no_headers(guarded: Any, server: Any, field: str) -> None:
    """A proxy in front has checked the head only."""
    content = chunked("logarithm", BODY, trailers=f"{field}\r\nX-Request-Id: mine\r\n")
    # Complete before the application looks at it, and behind another request.
    assert ask(guarded, content).status == 401
    with connected(guarded) as (connection, stream):
        connection.sendall(post("logarithm", BODY, field) + content)
        assert [read(stream).status, read(stream).status] == [200, 401]
    answer = ask(server, content)
    assert (answer.status, answer.headers["x-request-id"] == "mine") == (200, False)


def test_trailers_have_an_end(server: Any) -> None:
    content = chunked("logarithm", BODY).removesuffix(b"\r\n")
    assert ask(server, content + b"X: y\r\n" * (1 << 18)).status == 431
    assert ask(server, chunked("logarithm", BODY, trailers="X: y\r\n")).status == 200

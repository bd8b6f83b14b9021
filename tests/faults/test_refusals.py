"""Requests that are refused before they are complete: the answer arrives, and is counted once."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from clocked import ClockedServer, Line, clocked
from wire import Answer, ask, chunked, connected, post, read, row

trustme: Any = import_module("trustme")  # it has no types

KEY = "0123456789abcdef"
ALLOWED = "Origin: http://page.example"
LIMIT = 10  # seconds on the server's clock
LARGE = b" " * (16 << 20)  # more than the buffers of both sides hold


@pytest.fixture(scope="module")
def guarded(
    archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClockedServer]:
    """Return a server with keys and small limits, which one page may ask."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"us:{KEY}\n")
    with clocked(
        *(archives[name] for name in ("logarithm", "memory")),
        api_keys=keys,
        max_body_bytes=1 << 20,
        cors_origin=(ALLOWED[8:],),
        body_seconds=LIMIT,
    ) as server:
        yield server


def known(*headers: str) -> tuple[str, ...]:
    return (f"X-API-Key: {KEY}", *headers)


REFUSED = {
    "401": (401, post("logarithm", LARGE)),
    "403": (403, post("logarithm", LARGE, "Origin: http://evil.example")),
    "404": (404, post("nobody", LARGE, *known())),
    "413": (413, post("logarithm", LARGE, *known())),
    "413 in chunks": (413, chunked("logarithm", LARGE, *known())),
    "404 of a route": (404, post("x/y", LARGE, *known())),
    "405": (405, post("logarithm", LARGE, *known()).replace(b"POST", b"PUT")),
    "413 of an index": (
        413,
        post("x", LARGE, *known()).replace(b"models/x/infer", b"repository/index"),
    ),
    "501": (501, post("x", LARGE).replace(b"Content-Length", b"Transfer-Encoding: a\r\nX")),
    "400": (400, post("x", LARGE, host=())),
    "431": (431, b"GET /v2 HTTP/1.1\r\nX: " + LARGE),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_client_that_sends_all_of_its_body_first_reads_the_answer(
    guarded: ClockedServer, name: str
) -> None:
    """To close with data unread would reset the connection, and the answer with it."""
    status, content = REFUSED[name]
    with connected(guarded) as (connection, stream):
        connection.sendall(content)
        answer = read(stream)
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        assert answer.error
        assert stream.read() == b""


def test_a_connection_goes_on_after_a_refusal_of_a_small_body(guarded: ClockedServer) -> None:
    body = row(1)
    with connected(guarded) as (connection, stream):
        connection.sendall(post("nobody", b"", *known(), length=len(body)))
        assert read(stream).status == 404  # with the body on its way
        connection.sendall(body + post("logarithm", body, *known()))
        assert read(stream).status == 200


def test_a_refusal_instead_of_100_continue_ends_the_connection(
    guarded: ClockedServer,
) -> None:
    """The client may leave the body out: what it sends next must not be taken for it."""
    with connected(guarded) as (connection, stream):
        connection.sendall(post("nobody", b"", *known("Expect: 100-continue"), length=200))
        answer = read(stream)
        assert (answer.status, answer.headers["connection"]) == (404, "close")
        assert stream.read() == b""


def test_a_client_that_never_stops_sending_is_disconnected(guarded: ClockedServer) -> None:
    with connected(guarded) as (connection, stream):
        connection.sendall(post("logarithm", b"", *known(), length=1 << 40))
        assert read(stream).status == 413
        with pytest.raises(ConnectionError):
            while True:
                connection.sendall(LARGE)


def test_a_refusal_over_tls_arrives(
    launch: Callable[..., Any], archives: dict[str, Path], tmp_path: Path
) -> None:
    issued = trustme.CA().issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    options = ("--tls-cert", tmp_path / "cert.pem", "--max-body-bytes", 1 << 20)
    with launch(*options, archives["logarithm"]) as process:
        process.url = process.url.replace("https", "http")  # only the address is of interest
        assert process.line() == "ready: logarithm/1"
        with context.wrap_socket(process.connect()) as connection:
            connection.sendall(post("logarithm", LARGE))
            with connection.makefile("rb") as stream:
                assert read(stream).status == 413


LATE, LATE_IN_APPLICATION = "a late body", "a late body of the application"

ENDED = {
    LATE: ("logarithm", "408", post("logarithm", b"{", length=9)),
    LATE_IN_APPLICATION: (
        "logarithm",
        "408",
        post("logarithm", b"{", *known(), length=1 << 17),
    ),
    "an invalid chunk": (
        "logarithm",
        "400",
        chunked("logarithm", b"{}").replace(b"2\r\n", b"z\r\n"),
    ),
    "no HTTP": ("", "400", b"\x16\x03\x01\x02\x00"),
    "no Host": ("logarithm", "400", post("logarithm", b"{}", host=())),
    "a coding": ("", "501", chunked("x", b"{}").replace(b": chunked", b": gzip, chunked")),
    "a long head": ("", "431", b"GET /v2/x HTTP/1.1\r\nX: " + b"x" * (1 << 18)),
    "long trailers": (
        "logarithm",
        "431",
        chunked("logarithm", b"{}").removesuffix(b"\r\n") + b"X: " + b"x" * (1 << 20),
    ),
    "a handshake without a key": (
        "",
        "400",
        b"GET /v2/models/memory/stream HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\n"
        b"Upgrade: websocket\r\n\r\n",
    ),
}


def ask_late(server: ClockedServer, content: bytes) -> Answer:
    """Return the answer to a request whose body does not come within its time."""
    with connected(server) as (connection, stream):
        connection.sendall(content)
        server.advance(LIMIT)
        return read(stream)


@pytest.mark.parametrize("name", ENDED)
def test_whatever_is_answered_is_counted_and_logged_once(
    archives: dict[str, Path], name: str
) -> None:
    model, code, content = ENDED[name]
    with clocked(archives["logarithm"], archives["memory"], body_seconds=LIMIT) as server:
        is_late = name in (LATE, LATE_IN_APPLICATION)
        answer = ask_late(server, content) if is_late else ask(server, content)
        assert str(answer.status) == code
        server.settle()
        refusal = Line(model, answer.status)
        probes = {Line("", 200)}  # those of `settle`
        assert {line: n for line, n in server.counted().items() if line not in probes} == {
            refusal: 1
        }
    assert [line for line in server.log.lines if line not in probes] == [refusal]


def test_an_allowed_page_can_read_refusals(guarded: ClockedServer) -> None:
    contents = {
        400: post("logarithm", b"{", *known(ALLOWED)),
        401: post("logarithm", b"{}", ALLOWED),
        404: post("nobody", b"{}", *known(ALLOWED)),
        405: post("logarithm", b"", *known(ALLOWED)).replace(b"POST", b"PATCH"),
        408: post("logarithm", b"{", *known(ALLOWED), length=9),
        413: post("logarithm", LARGE, *known(ALLOWED)),
        415: post("logarithm", b"{}", *known(ALLOWED, "Content-Encoding: br")),
        501: chunked("x", b"{}", ALLOWED).replace(b": chunked", b": gzip, chunked"),
        431: post("x", b"", ALLOWED).removesuffix(b"\r\n") + b"X: " + b"x" * (1 << 18),
    }
    for status, content in contents.items():
        answer = ask_late(guarded, content) if status == 408 else ask(guarded, content)
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == "http://page.example"
        assert json.loads(answer.body)["error"]

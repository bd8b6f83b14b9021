"""Web pages: which may ask, and what their browsers are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from torchship.serve.errors import OriginError
from torchship.serve.http.origins import Origins
from wire import Answer, ask, post, row

Launch = Callable[..., Any]

BODY = row(1)
PAGE = "http://page.example"


@pytest.fixture(scope="module")
def open_to_one(launch: Launch, archives: dict[str, Path]) -> Iterator[Any]:
    options = ("--cors-origin", PAGE, "--mode", "explicit", "--load", "memory", "--load")
    with launch(*options, "logarithm", archives["memory"], archives["logarithm"]) as process:
        assert process.line().startswith("ready: ")
        yield process


def handshake(*headers: str) -> bytes:
    lines = [
        "GET /v2/models/memory/stream HTTP/1.1",
        "Host: x",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def get(path: str, *headers: str, verb: str = "GET") -> bytes:
    return "\r\n".join([f"{verb} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def preflight(server: Any, wanted: str, origin: str = PAGE) -> Answer:
    asked = (f"Origin: {origin}", f"Access-Control-Request-Method: {wanted}")
    headers = (*asked, "Access-Control-Request-Headers: x-api-key")
    return ask(server, get("/v2/models/memory/sequences/a", *headers, verb="OPTIONS"))


STRANGE = [
    *("http://evil.example", "null", "http://x:81", "https://x:80", "http://x.evil", "x", ""),
    *("http://x", "https://x"),  # what any page can have its name point to is no page of ours
]


@pytest.mark.parametrize("origin", STRANGE)
def test_a_page_that_was_not_allowed_changes_nothing(
    server: Any, open_to_one: Any, origin: str
) -> None:
    """Whether or not other pages were allowed."""
    field = f"Origin: {origin}"
    run = post("logarithm", BODY, field, host=("Host: x",))
    unload = run.replace(b"models/logarithm/infer", b"repository/models/memory/unload")
    for process in (server, open_to_one):
        for content in (run, unload, handshake(field)):
            answer = ask(process, content)
            assert (answer.status, "may not ask" in answer.error) == (403, True)
            assert "access-control-allow-origin" not in answer.headers
        assert ask(process, get("/v2/models/memory/ready", field)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ("Origin: http://localhost",),
        ("Origin: http://localhost:80",),
        ("Origin: https://localhost",),  # a proxy ends TLS
        ("Origin: https://other.example", "Sec-Fetch-Site: same-origin"),
    ],
)
def test_programs_and_the_servers_own_pages_may_ask(server: Any, headers: tuple[str, ...]) -> None:
    assert ask(server, post("logarithm", BODY, *headers)).status == 200
    with server.connect() as connection:
        connection.sendall(handshake(*headers).replace(b"Host: x", b"Host: localhost"))
        assert connection.recv(12) == b"HTTP/1.1 101"


def test_a_server_that_others_can_reach_knows_itself_by_the_name_it_was_asked_for(
    launch: Launch, archives: dict[str, Path]
) -> None:
    with launch("--host", "0.0.0.0", archives["logarithm"]) as process:
        process.url = process.url.replace("0.0.0.0", "127.0.0.1")
        assert process.line() == "ready: logarithm/1"
        for origin, status in (("http://x", 200), ("http://y", 403)):
            asked = post("logarithm", BODY, f"Origin: {origin}", host=("Host: x",))
            assert ask(process, asked).status == status


def test_a_port_is_part_of_the_origin(server: Any) -> None:
    place = server.url.removeprefix("http://")
    own = post("logarithm", BODY, f"Origin: http://{place}", host=(f"Host: {place}",))
    assert ask(server, own).status == 200
    host = place.partition(":")[0]
    other = post("logarithm", BODY, f"Origin: http://{host}", host=(f"Host: {place}",))
    assert ask(server, other).status == 403


def test_an_allowed_page_may_ask(open_to_one: Any) -> None:
    answer = ask(open_to_one, post("logarithm", BODY, f"Origin: {PAGE}"))
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, PAGE)
    assert answer.headers["vary"] == "Origin"
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]
    with open_to_one.connect() as connection:
        connection.sendall(handshake(f"Origin: {PAGE}"))
        assert connection.recv(12) == b"HTTP/1.1 101"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_every_method_that_the_server_has_is_allowed_beforehand(
    open_to_one: Any, method: str
) -> None:
    answer = preflight(open_to_one, method)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert method in answer.headers["access-control-allow-methods"].split(", ")
    assert answer.headers["access-control-allow-headers"] == "x-api-key"
    assert preflight(open_to_one, method, "http://evil.example").status == 400


def test_a_preflight_needs_no_key(
    launch: Launch, archives: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("us:0123456789abcdef\n")
    options = ("--cors-origin", "*", "--api-keys", tmp_path / "keys")
    with launch(*options, archives["memory"]) as process:
        assert process.line() == "ready: memory/1"
        answer = preflight(process, "DELETE", "null")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")
        refused = ask(process, post("memory", b"{}", "Origin: http://any.example"))
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, "*")


def scope(origin: str, host: str, scheme: str = "http") -> dict[str, Any]:
    headers = [(b"origin", origin.encode()), (b"host", host.encode())]
    return {"type": "http", "scheme": scheme, "headers": headers}


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "own"),
    [
        ("http://x", "x", "http", True),
        ("http://x", "X:80", "http", True),
        ("https://x", "x", "https", True),
        ("https://x", "x:443", "wss", True),
        ("http://x", "x", "https", False),  # whoever is on the way could be that page
        ("http://x", "x", "wss", False),
        ("http://[::1]:8000", "[::1]:8000", "ws", True),
        ("http://[::1]:8000", "[::2]:8000", "ws", False),
        ("http://x:99999", "x", "http", False),
        ("http://u@x", "x", "http", False),
        ("http://x/", "x", "http", False),
        ("file://", "x", "http", False),
        ("http://x", "", "http", False),
    ],
)
def test_own(origin: str, host: str, scheme: str, own: bool) -> None:
    if own:
        Origins().check(scope(origin, host, scheme))
    else:
        with pytest.raises(OriginError):
            Origins().check(scope(origin, host, scheme))

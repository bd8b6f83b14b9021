"""Behind a proxy: below a path, and for clients that only the proxy has seen."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from torchship.script.errors import UsageError
from torchship.serve.http.proxies import Proxies
from torchship.serve.settings import read_networks, read_settings
from wire import ask, post, row

Launch = Callable[..., Any]

BODY = row(1)


@pytest.fixture(scope="module")
def behind(launch: Launch, archives: dict[str, Path]) -> Iterator[Any]:
    options = ("--root-path", "/a/models", "--forwarded-allow-ips", "127.0.0.0/8, 10.0.0.1")
    more = ("--access-log", "all", "--log-format", "json")
    with launch(*options, *more, archives["logarithm"], archives["memory"]) as process:
        assert process.line().startswith("ready: ")
        yield process


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def logged(server: Any, name: str) -> dict[str, Any]:
    """Return the line of the access log of the request with that id."""
    ask(server, get("/v2/health/live"))  # the line of a request comes after its answer
    found = [json.loads(line) for line in server.stderr(name).splitlines() if name in line]
    assert len(found) == 1
    return dict(found[0])


@pytest.mark.parametrize("prefix", ["", "/a/models"])
def test_a_path_is_found_with_and_without_the_prefix(behind: Any, prefix: str) -> None:
    for path in ("/v2/health/ready", "/v2/models/memory", "/metrics", "/docs", "/openapi.json"):
        assert ask(behind, get(prefix + path)).status == 200
    start = f"POST {prefix}/v2".encode()
    for more in ((), ("Origin: http://localhost",)):  # directly, and through the application
        content = post("logarithm", BODY, *more).replace(b"POST /v2", start)
        assert ask(behind, content).status == 200
    answer = ask(behind, get(f"{prefix}/v2/nothing"))
    assert (answer.status, answer.error) == (404, "GET /v2/nothing: not found")
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    with behind.connect() as connection:
        connection.sendall(get(f"{prefix}/v2/models/memory/stream", *fields, key))
        assert connection.recv(12) == b"HTTP/1.1 101"


@pytest.mark.parametrize("path", ["/a/modelsv2/health/ready", "/b/v2/health/ready"])
def test_another_prefix_is_not_found(behind: Any, path: str) -> None:
    assert ask(behind, get(path)).status == 404


def test_the_docs_ask_below_the_prefix(behind: Any, server: Any) -> None:
    below, page = (ask(behind, get(path)).body.decode() for path in ("/a/models/docs", "/docs"))
    assert below == page
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)  # all of them are relative
    assert "docs/docs.mjs" in addresses
    for address in addresses:
        assert ask(behind, get(f"/a/models/{address}")).status == 200
        assert ask(server, get(f"/{address}")).status == 200
    document = json.loads(ask(behind, get("/openapi.json")).body)
    assert document["servers"] == [{"url": "/a/models"}]
    assert "/v2/models/logarithm/infer" in document["paths"]


@pytest.mark.parametrize("more", [(), ("Origin: http://localhost",)])
def test_the_access_log_names_the_client(behind: Any, server: Any, more: tuple[str, ...]) -> None:
    name = f"who-{len(more)}"
    headers = (f"X-Request-Id: {name}", "X-Forwarded-For: 6.6.6.6, 192.0.2.7:99, 10.0.0.1")
    assert ask(behind, post("logarithm", BODY, *headers, *more)).status == 200
    assert logged(behind, name)["client"] == "192.0.2.7:99"


@pytest.mark.parametrize(
    ("start", "status"),
    [
        ("GET /v2 HTTP/1.1\r\nHost: a/b", 400),
        ("POST /v2/models/logarithm/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip", 501),
        ("GET /v2/models/memory/stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
         "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short", 400),
    ],
)  # fmt: skip
def test_the_log_knows_whose_request_was_none(behind: Any, start: str, status: int) -> None:
    name = f"none-{len(start)}"
    lines = (start, f"X-Request-Id: {name}", "X-Forwarded-For: 192.0.2.7:99, 10.0.0.1", "", "")
    assert ask(behind, "\r\n".join(lines).encode()).status == status
    line = logged(behind, name)
    assert (line["client"], line["status"]) == ("192.0.2.7:99", status)


def test_the_scheme_and_host_are_those_of_the_proxy(behind: Any) -> None:
    https = ("X-Forwarded-Proto: https", "X-Forwarded-Host: page.example")
    for origin, status in (("https://page.example", 200), ("http://page.example", 403)):
        content = post("logarithm", BODY, f"Origin: {origin}", *https)
        assert ask(behind, content).status == status


def test_forwarded_headers_of_other_clients_are_ignored(
    launch: Launch, archives: dict[str, Path]
) -> None:
    options = ("--forwarded-allow-ips", "10.0.0.1", "--access-log", "all", "--log-format", "json")
    with launch(*options, archives["logarithm"]) as process:
        assert process.line() == "ready: logarithm/1"
        fields = ("X-Request-Id: who", "X-Forwarded-For: 192.0.2.7", "X-Forwarded-Host: page")
        assert ask(process, post("logarithm", BODY, *fields, "Origin: http://page")).status == 403
        assert logged(process, "who")["client"].startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "client"),
    [
        ("10.0.0.0/8", "10.1.1.1", "1.1.1.1, 2.2.2.2", "2.2.2.2"),
        ("10.0.0.0/8", "10.1.1.1", "1.1.1.1, 10.2.2.2", "1.1.1.1"),
        ("10.0.0.0/8", "10.1.1.1", "10.3.3.3, 10.2.2.2", "10.3.3.3"),
        ("10.0.0.0/8", "10.1.1.1", "1.1.1.1, x", "10.1.1.1"),
        ("10.0.0.0/8", "10.1.1.1", "1.1.1.1, \x1b[2J, 10.2.2.2", "10.2.2.2"),
        ("10.0.0.0/8", "11.1.1.1", "1.1.1.1", "11.1.1.1"),
        ("10.0.0.0/8", "::ffff:10.1.1.1", "1.1.1.1", "1.1.1.1"),
        ("::1", "::1", "[2001:db8::1]:80", "2001:db8::1"),
        ("*", "8.8.8.8", "1.1.1.1", "1.1.1.1"),
        ("", "127.0.0.1", "1.1.1.1", "127.0.0.1"),
        ("*", "8.8.8.8", "", "8.8.8.8"),
    ],
)
def test_client(trusted: str, peer: str, forwarded: str, client: str) -> None:
    headers = [(b"x-forwarded-for", forwarded.encode())]
    found = Proxies(read_networks(trusted)).client((peer, 1), headers)
    assert found is not None
    assert found[0] == client


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("root_path", value) for value in ("models", "/models/", "/", "//x", "/a?b", "/a b")),
        *(("forwarded_allow_ips", value) for value in ("proxy", "10.0.0.1/8", "1.2.3", "a, ::1")),
    ],
)
def test_settings_that_do_not_fit_are_refused(name: str, value: str) -> None:
    with pytest.raises(
        UsageError, match=rf"setting '{name}': .*expected .*, got '{value}'".replace("?", r"\?")
    ):
        read_settings({name: value})

"""The page's files as a server gives them: types, caching, keys, and what is outside of them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Scope
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from torchship.serve.http.static_files import StaticFolder
from torchship.ui import PAGE

Launch = Callable[..., Any]

KEY = "a key with 20 letters".replace(" ", "-")
X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"somebody:{KEY}\n")
    return path


@pytest.fixture(scope="module")
def guarded(
    launch: Launch, archives: dict[str, Path], keys: Path
) -> Iterator[tuple[Any, httpx.Client]]:
    """A server with keys, below a root path, that all machines reach."""
    options = ("--api-keys", keys, "--root-path", "/a/b", "--host", "0.0.0.0")
    logs = ("--access-log", "all", "--log-level", "debug")
    with launch(*options, *logs, archives["memory"]) as process:
        assert process.line().startswith("ready")
        url = process.url.replace("0.0.0.0", "localhost")
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as opened:
            yield process, opened


def test_the_page_has_a_strict_policy_and_its_types(client: httpx.Client) -> None:
    types = {
        "/": "text/html; charset=utf-8",
        "/ui/main.mjs": "text/javascript; charset=utf-8",
        "/ui/style.css": "text/css; charset=utf-8",
        "/ui/icon.svg": "image/svg+xml",
        "/site.json": "application/json",
    }
    for path, kind in types.items():
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == kind
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-cache"
        policy = dict(
            part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
        )
        assert policy["default-src"] == "'self'"
        assert policy["script-src"] == "'self' 'wasm-unsafe-eval'"
        assert policy["frame-ancestors"] == "'none'"


def test_the_policy_of_the_header_is_that_of_the_page(client: httpx.Client) -> None:
    policy = client.get("/").headers["content-security-policy"]
    said, _, frames = policy.rpartition("; ")
    assert frames == "frame-ancestors 'none'"  # which a page cannot say itself
    assert f'content="{said}"' in (PAGE / "index.html").read_text()


def test_a_file_has_its_type_whatever_the_machine_thinks(tmp_path: Path) -> None:
    content = {"a.wasm": "application/wasm", "a.mjs": "text/javascript; charset=utf-8",
               "a.png": "image/png", "a.strange": "application/octet-stream"}  # fmt: skip
    for name in content:
        (tmp_path / name).write_bytes(b"\0")
    folder = StaticFolder(tmp_path)
    scope: Scope = {"type": "http", "method": "GET", "headers": []}
    for name, kind in content.items():
        answer = asyncio.run(folder.response(name, scope, {}))
        assert answer.headers["content-type"] == kind


def test_a_file_is_compressed_for_who_takes_that(client: httpx.Client) -> None:
    whole = (PAGE / "ui" / "style.css").read_bytes()
    plain = {"Accept-Encoding": "identity"}
    for accepted in ("gzip", "br, gzip;q=0.5", "*"):
        request = client.build_request(
            "GET", "/ui/style.css", headers={"Accept-Encoding": accepted}
        )
        answer = client.send(request, stream=True)
        raw = b"".join(answer.iter_raw())
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(raw) == whole
        assert len(raw) < len(whole) / 2
    for refused in ("identity", "gzip;q=0", "br"):
        answer = client.get("/ui/style.css", headers={"Accept-Encoding": refused})
        assert "content-encoding" not in answer.headers
        assert answer.content == whole
        assert answer.headers["vary"] == "Accept-Encoding"
    tags = {client.get("/ui/style.css", headers=h).headers["etag"] for h in (plain, {})}
    assert len(tags) == 2


def test_a_file_that_is_known_is_not_sent_again(client: httpx.Client) -> None:
    for accepted in ("gzip", "identity"):
        headers = {"Accept-Encoding": accepted}
        first = client.get("/ui/main.mjs", headers=headers)
        again = client.get(
            "/ui/main.mjs", headers={**headers, "If-None-Match": f'"old", {first.headers["etag"]}'}
        )
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        other = client.get("/ui/main.mjs", headers={**headers, "If-None-Match": '"old"'})
        assert other.status_code == 200


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file, folder = tmp_path / "a.css", StaticFolder(tmp_path)
    scope: Scope = {"type": "http", "method": "GET", "headers": []}
    tags = []
    for content in (b"a {}", b"a { }"):
        file.write_bytes(content)
        answer = asyncio.run(folder.response("a.css", scope, {}))
        assert answer.body == content
        tags.append(answer.headers["etag"])
    assert len({*tags}) == 2


def test_a_head_is_a_get_without_its_body(client: httpx.Client) -> None:
    for path in ("/", "/ui/main.mjs", "/site.json"):
        head, got = client.head(path), client.get(path)
        assert head.content == b""
        assert {**head.headers, "x-request-id": "", "date": ""} == {
            **got.headers, "x-request-id": "", "date": ""}  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "/ui/../__init__.py",
        "/ui/../../__init__.py",
        "/ui/%2e%2e/%2e%2e/__init__.py",
        "/ui/..%2f..%2f__init__.py",
        "/ui/..%5c..%5c__init__.py",
        "/ui//etc/passwd",
        "/ui/%2fetc%2fpasswd",
        "/ui/%00",
        "/ui/main.mjs%00.css",
        "/ui/",
        "/ui",
        "/ui/tabs",
        "/ui/" + "a" * 5000,
        "/index.html",
    ],
)
def test_nothing_but_the_page_is_there(server: Any, path: str) -> None:
    with server.connect() as socket:
        socket.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: socket.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"not found" in answer


def test_a_link_out_of_the_folder_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "link").symlink_to(tmp_path / "secret")
    folder = StaticFolder(tmp_path / "page")
    scope: Scope = {"type": "http", "method": "GET", "headers": []}
    for name in ("link", "../secret"):
        with pytest.raises(Exception, match="404"):
            asyncio.run(folder.response(name, scope, {}))


def test_other_methods_are_refused(client: httpx.Client) -> None:
    for path in ("/", "/ui/main.mjs", "/site.json"):
        answer = client.post(path)
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD"


def test_site_json_says_what_the_server_is(
    client: httpx.Client, guarded: tuple[Any, httpx.Client]
) -> None:
    known = client.get("/site.json").json()
    assert known == {"form": "server", "version": known["version"], "keys": False, "verify": True}
    assert guarded[1].get("/site.json").json() == {**known, "keys": True, "verify": False}


def test_the_page_can_be_read_without_a_key_and_nothing_else(
    guarded: tuple[Any, httpx.Client],
) -> None:
    _, client = guarded
    for path in ("/", "/ui/main.mjs", "/site.json", "/a/b/", "/a/b/ui/main.mjs", "/a/b/site.json"):
        assert client.get(path).status_code == 200, path
        assert client.head(path).status_code == 200, path
        assert client.post(path).status_code == 401, path
    for path in ("/v2", "/metrics", "/v2/models/memory/archive", "/ui", "/a/b/v2"):
        assert client.get(path).status_code == 401, path
    assert client.get("/ui/%2e%2e/v2/models/memory").status_code == 404


def test_below_a_root_path_the_address_ends_with_a_slash(
    guarded: tuple[Any, httpx.Client],
) -> None:
    _, client = guarded
    answer = client.get("/a/b")
    assert answer.status_code == 307
    assert answer.next_request is not None
    assert answer.next_request.url.path == "/a/b/"


def encoded(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def test_a_socket_brings_its_key_as_a_subprotocol(guarded: tuple[Any, httpx.Client]) -> None:
    process, client = guarded
    url = f"ws://{client.base_url.netloc.decode()}/a/b/v2/models/memory/stream"
    origin = f"http://{client.base_url.netloc.decode()}"

    def opened(*offered: str) -> Any:
        return connect(url, subprotocols=offered, origin=origin, proxy=None)  # type: ignore

    with opened("torchship", f"torchship.key.{encoded(KEY)}") as socket:
        assert socket.subprotocol == "torchship"
        headers = socket.response.headers
        assert headers.get_all("Sec-WebSocket-Protocol") == ["torchship"]
        socket.send(json.dumps({"inputs": [X]}))
        assert "outputs" in json.loads(socket.recv())
    wrong = [encoded(KEY + "!"), encoded(KEY) + "!", encoded(KEY)[:-1] + "ß"[:0], "", "*"]
    for key in wrong:
        with pytest.raises(InvalidStatus) as refused, opened("torchship", f"torchship.key.{key}"):
            pass
        assert refused.value.response.status_code == 401
        assert KEY.encode() not in (refused.value.response.body or b"")
        assert key == "" or key.encode() not in (refused.value.response.body or b"")
    said = process.stderr("/a/b/v2/models/memory/stream")
    assert KEY not in said
    assert encoded(KEY) not in said


def test_a_socket_without_keys_takes_the_subprotocol_too(server: Any) -> None:
    url = server.url.replace("http", "ws", 1) + "/v2/models/memory/stream"
    with connect(url, subprotocols=["torchship"], proxy=None) as socket:  # type: ignore
        assert socket.subprotocol == "torchship"
    with connect(url, subprotocols=["other"], proxy=None) as socket:  # type: ignore
        assert socket.subprotocol is None


def test_the_pages_own_requests_pass_and_those_of_other_pages_do_not(
    client: httpx.Client, guarded: tuple[Any, httpx.Client]
) -> None:
    body = {"inputs": [X]}
    for asked, path in ((client, ""), (guarded[1], "/a/b"), (guarded[1], "")):
        place = f"{path}/v2/models/memory/infer"
        own = f"http://{asked.base_url.netloc.decode()}"
        for origin, status in ((own, 200), ("http://elsewhere", 403), ("null", 403)):
            headers = {"Origin": origin, "X-API-Key": KEY}
            assert asked.post(place, json=body, headers=headers).status_code == status, origin


def test_the_page_can_be_turned_off(launch: Launch, archives: dict[str, Path], keys: Path) -> None:
    with launch("--no-ui", "--api-keys", keys, archives["memory"]) as process:
        assert process.line().startswith("ready")
        headers = {"X-API-Key": KEY}
        with httpx.Client(base_url=process.url, trust_env=False, timeout=60) as client:
            gone = ("/", "/ui/main.mjs", "/site.json", "/v2/models/memory/archive",
                    "/v2/models/memory/archive/golden", "/v2/models/memory/verify")  # fmt: skip
            for path in gone:
                assert client.get(path).status_code == 401, path
                answer = client.get(path, headers=headers)
                assert answer.status_code == 404
                assert answer.json() == {"error": f"GET {path}: not found"}
            described = client.get("/openapi.json", headers=headers).json()["paths"]
            assert not [path for path in described if "archive" in path or "verify" in path]


def test_two_workers_give_the_same_page(launch: Launch, archives: dict[str, Path]) -> None:
    with launch("--workers", 2, archives["tiny"]) as process:
        assert process.line().startswith("ready")
        found = set()
        for _ in range(16):  # each a connection of its own, which either worker may take
            with httpx.Client(base_url=process.url, trust_env=False, timeout=60) as client:
                found.add((client.get("/ui/main.mjs").headers["etag"], client.get("/").text))
        assert len(found) == 1

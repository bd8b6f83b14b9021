"""API keys: their file, the rate, and every route behind them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from torchship.script.errors import UsageError
from torchship.serve.http.app import create_app
from torchship.serve.http.auth import Guard
from torchship.serve.http.error_responses import answer
from torchship.serve.repository.repository import Repository
from torchship.serve.service.api_keys import ApiKey, KeyRing, read_api_keys
from torchship.serve.service.rate_limit import TokenBucket
from torchship.serve.settings import Settings

Launch = Callable[..., Any]

ALICE, BOB, CAROL = "a" * 16, "bob's secret key".replace(" ", "-"), "carol-knows-this-one"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    digest = hashlib.sha256(CAROL.encode()).hexdigest()
    path.write_text(f"# who may ask\n\nalice:{ALICE}\nbob:{BOB}:2\ncarol:sha256={digest}:0.5\n")
    return path


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_file_of_keys_is_read_and_only_digests_are_kept(keys: Path) -> None:
    read = read_api_keys(keys)
    assert [(key.name, key.rate) for key in read] == [("alice", None), ("bob", 2), ("carol", 0.5)]
    assert [key.digest for key in read] == [
        hashlib.sha256(key.encode()).digest() for key in (ALICE, BOB, CAROL)
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no API keys"),
        ("alice", "line 1: expected name:key"),
        (f":{ALICE}", "line 1: expected name:key"),
        (f"alice:{ALICE} {ALICE}", "line 1: expected name:key"),
        ("alice:short", "the key of 'alice' is too short: expected at least 16 characters, got 5"),
        (f"alice:{ALICE}:often", "requests per second above 0 after the key of 'alice', got 'o"),
        (f"alice:{ALICE}:0", "above 0"),
        (f"alice:{ALICE}:inf", "above 0"),
        (f"alice:{ALICE}:nan", "above 0"),
        ("alice:sha256=12", "expected 64 hexadecimal digits after sha256= of 'alice'"),
        (f"alice:{ALICE}\nbob:{ALICE}", "line 2: the name or the key of 'alice' again"),
        (f"alice:{ALICE}\nalice:{BOB}", "line 2: the name or the key of 'alice' again"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_without_showing_a_key(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as refused:
        read_api_keys(path)
    assert ALICE not in str(refused.value)
    assert "short'" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the API keys from '.*gone': No such file"):
        read_api_keys(tmp_path / "gone")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="it is not UTF-8"):
        read_api_keys(tmp_path / "binary")


def test_a_bucket_gives_its_rate_and_keeps_one_second() -> None:
    now = [0.0]
    bucket = TokenBucket(2, lambda: now[0])
    assert [bucket.take(), bucket.take(), bucket.take()] == [0, 0, 0.5]
    now[0] = 0.5
    assert [bucket.take(), bucket.take()] == [0, 0.5]
    now[0] = 60
    assert [bucket.take(), bucket.take(), bucket.take()] == [0, 0, 0.5]


@given(
    rate=st.floats(0.1, 100),
    pauses=st.lists(st.floats(0, 3), min_size=1, max_size=200),
)
def test_a_bucket_never_gives_more_than_its_rate(rate: float, pauses: list[float]) -> None:
    now = [0.0]
    bucket = TokenBucket(rate, lambda: now[0])
    got = 0
    for pause in pauses:
        now[0] += pause
        got += bucket.take() == 0
    assert got <= max(rate, 1) + now[0] * rate + 1e-6


async def _inner(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        await socket.send_text("in")
        await socket.close()
    else:
        await PlainTextResponse("in")(scope, receive, send)


def ask(
    app: ASGIApp, path: str = "/", headers: Mapping[str, str] | None = None, method: str = "GET"
) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(asked())


def _guard(rate: float | None = None, clock: Callable[[], float] = lambda: 0) -> ASGIApp:
    key = ApiKey("alice", hashlib.sha256(ALICE.encode()).digest(), rate)
    return Guard(_inner, KeyRing([key], clock), answer)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (bearer(ALICE), 200),
        ({"Authorization": f"bearer  {ALICE}"}, 200),
        ({"X-API-Key": ALICE}, 200),
        ({"X-API-Key": ALICE, "Authorization": "Basic YTpi"}, 200),
        ({"X-API-Key": ALICE, **bearer(BOB)}, 401),
        ({"Authorization": ALICE}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"X-API-Key": ALICE[:-1]}, 401),
        ({"X-API-Key": ALICE + "a"}, 401),
        ({}, 401),
    ],
)
def test_where_a_key_may_stand(headers: dict[str, str], status: int) -> None:
    answered = ask(_guard(), "/anything", headers)
    assert answered.status_code == status
    assert (answered.headers.get("www-authenticate") is not None) == (status == 401)


def test_a_key_over_its_rate_gets_429_and_when_to_come_again() -> None:
    now = [0.0]
    app = _guard(0.4, lambda: now[0])
    assert ask(app, headers=bearer(ALICE)).status_code == 200
    refused = ask(app, headers=bearer(ALICE))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
    assert refused.json() == {"error": "API key 'alice' may make 0.4 requests a second"}
    now[0] = 2.5
    assert ask(app, headers=bearer(ALICE)).status_code == 200


@pytest.mark.parametrize(("key", "first"), [(ALICE, "websocket.accept"), (BOB, 401)])
def test_a_websocket_needs_a_key_too(key: str, first: str | int) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "websocket",
        "path": "/stream",
        "headers": [(b"x-api-key", key.encode())],
        "extensions": {"websocket.http.response": {}},
    }
    asyncio.run(_guard()(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0].get("status", sent[0]["type"]) == first


def test_every_route_but_health_and_the_files_of_the_page_is_behind_the_keys(keys: Path) -> None:
    app = create_app(Repository([]), Settings(api_keys=keys))
    page = {"/", "/site.json", "/ui/{name:path}", "/docs", "/docs/{name:path}"}
    paths = {route.path for route in app.routes if hasattr(route, "path")}
    paths |= {"/v2/models/a/infer", "/v2/models/a/versions/1/infer", "/nowhere", "/health/../v2"}
    for path in paths - {"/v2/health/live", "/v2/health/ready"}:
        for method in ("GET", "POST"):
            if method == "POST" or path not in page:
                assert ask(app, path, {}, method).status_code == 401, path
            assert ask(app, path, bearer(ALICE), method).status_code != 401, path
    assert ask(app, "/v2/health/live").status_code == 200
    assert ask(app, "/v2/health/ready").status_code == 503  # nothing was loaded


@pytest.fixture
def guarded(launch: Launch, archives: dict[str, Path], keys: Path) -> Iterator[Any]:
    with launch("--api-keys", keys, archives["half"]) as server:
        assert server.line() == "ready: half/1"
        yield server


def test_the_server_process_asks_for_keys(guarded: Any) -> None:
    with httpx.Client(base_url=guarded.url, trust_env=False, timeout=60) as client:
        refused = client.post("/v2/models/half/infer", content=b"{}" * 100_000)
        assert (refused.status_code, refused.headers["www-authenticate"][:6]) == (401, "Bearer")
        for key in (ALICE, CAROL):
            found = client.get("/v2/models/half", headers=bearer(key))
            assert found.status_code == 200
        assert client.get("/v2/models/half", headers=bearer(CAROL)).status_code == 429
        assert client.get("/v2/health/ready").status_code == 200

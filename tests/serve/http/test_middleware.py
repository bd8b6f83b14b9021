"""Every request's id, what becomes of errors, and what is counted of clients that leave."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from torchship.serve.engine.engine import Engine
from torchship.serve.errors import ClientGoneError, UnknownModelError
from torchship.serve.http.app import create_app
from torchship.serve.http.middleware import Middleware
from torchship.serve.repository.repository import Repository
from torchship.serve.service.accounting import RequestAccounting
from torchship.serve.telemetry.metrics import Metrics
from torchship.serve.telemetry.samples import samples_of

ID = "X-Request-Id"
PATHS = {
    ("GET", "/v2"): 200,
    ("GET", "/metrics"): 200,
    ("GET", "/nothing"): 404,
    ("GET", "/v2/models/memory/infer"): 405,
    ("POST", "/v2/models/memory/infer"): 400,
    ("POST", "/v2/models/nobody/infer"): 404,
}
ROW = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}


@pytest.fixture(scope="module")
def http(server: Any) -> Any:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        yield client


def test_every_answer_has_an_id_of_its_own(http: httpx.Client) -> None:
    answers = [http.request(verb, path, content=b"") for verb, path in PATHS]
    answers.append(http.post("/v2/models/memory/infer", json={"inputs": [ROW]}))
    assert [answer.status_code for answer in answers] == [*PATHS.values(), 200]
    ids = [answer.headers[ID] for answer in answers]
    assert len(set(ids)) == len(ids)
    assert {len(number) for number in ids} == {32}


def test_a_clients_own_id_comes_back(http: httpx.Client) -> None:
    for verb, path in PATHS:
        answer = http.request(verb, path, headers={ID: "mine-7/:~!"})
        assert answer.headers.get_list(ID) == ["mine-7/:~!"]


@pytest.mark.parametrize("given", [b"", b"a b", b"\xc3\xa9", b"a\tb", b"a" * 129])
def test_an_id_that_is_not_sane_is_replaced(http: httpx.Client, given: bytes) -> None:
    answer = http.get("/v2", headers={ID.encode(): given})
    assert len(answer.headers[ID]) == 32
    assert answer.headers[ID].encode("latin-1") != given
    longest = "a" * 128
    assert http.get("/v2", headers={ID: longest}).headers[ID] == longest


@pytest.mark.parametrize(
    ("verb", "path"), [("GET", "/v2/models/m"), ("POST", "/v2/models/m/infer")]
)
def test_an_internal_error_names_the_request_id(
    verb: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Repository):
        def find(self, name: str, version: str | None = None) -> Engine:
            raise RuntimeError("secret in /srv/models")

    async def request(**headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(create_app(Broken([])))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as own:
            return await own.request(verb, path, headers=headers)

    made = asyncio.run(request())
    assert made.json() == {"error": f"internal error {made.headers[ID]}"}
    given = asyncio.run(request(**{ID: "seven"}))
    assert (given.status_code, given.json()) == (500, {"error": "internal error seven"})
    assert "internal error seven" in caplog.text
    assert "secret in /srv/models" in caplog.text


App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Uvicorn:
    """What uvicorn gives an application, as far as the front looks at it."""

    disconnected = False

    def __init__(self) -> None:
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


def ended(app: App, cycle: Uvicorn | None = None) -> dict[str, float]:
    """Run a request; return how many are counted, by code."""
    metrics = Metrics()
    cycle = cycle or Uvicorn()
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}

    async def run() -> None:
        middleware = Middleware(app, RequestAccounting(metrics))
        task = asyncio.ensure_future(middleware(scope, cycle.receive, cycle.send))
        await asyncio.sleep(0)
        if not task.done():
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    figures = samples_of(asyncio.run(metrics.own(Repository([]).status())))
    counted = (one for one in figures if one.name == "torchship_requests_total")
    return {one.labels["code"]: one.value for one in counted}


def raising(error: Exception) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return app


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


def test_a_client_that_disconnects_before_the_answer_is_counted_with_499() -> None:
    left = Uvicorn()
    left.disconnected = True
    assert ended(fine) == {"200": 1}
    assert ended(fine, left) == {"499": 1}
    assert ended(raising(ClientDisconnect())) == {"499": 1}
    assert ended(raising(ClientGoneError("the client left"))) == {"499": 1}
    assert ended(endless, left) == {"499": 1}
    assert ended(raising(UnknownModelError("no such"))) == {"404": 1}
    assert ended(raising(ValueError("secret"))) == {"500": 1}


def test_an_answer_that_has_begun_is_not_followed_by_another() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ValueError("too late")

    cycle = Uvicorn()
    assert ended(app, cycle) == {"200": 1}
    assert [message["type"] for message in cycle.sent] == ["http.response.start"]


@pytest.mark.parametrize("expects", [True, False])
def test_a_client_that_leaves_a_real_server_is_counted(
    launch: Any, archives: dict[str, Path], expects: bool
) -> None:
    with launch(archives["memory"]) as server:
        assert server.line() == "ready: memory/1"
        with server.connect() as connection:
            expect = b"Expect: 100-continue\r\n" if expects else b""
            connection.sendall(
                b"POST /v2/models/memory/infer HTTP/1.1\r\nHost: x\r\n%b"
                b"Content-Length: 100\r\n\r\n" % expect
            )
            # The server waits for the body now.
            assert not expects or connection.recv(4096).startswith(b"HTTP/1.1 100")
            connection.shutdown(socket.SHUT_WR)
            # It has seen the end: it closes its own side.
            assert connection.recv(4096) == b""
        text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    assert 'torchship_requests_total{code="499",model="memory",version="1"} 1.0' in text

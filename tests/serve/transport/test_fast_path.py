"""Requests that the connection answers itself: the same answers as the application's."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import orjson
import pytest
import torch
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from torchship.serve.engine.limits import Limits
from torchship.serve.http.app import create_app
from torchship.serve.protocol.messages import decode_request
from torchship.serve.repository.repository import Repository
from torchship.serve.settings import Settings
from torchship.serve.transport.fast_path import LARGEST, fast_path_protocol

PATH = "/v2/models/tiny/infer"
UNUSUAL = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

MakeArchive = Callable[..., Path]


def body(rows: int = 1, **more: object) -> bytes:
    values = torch.arange(510 * rows).remainder(13).tolist()
    entry = {"name": "obs", "datatype": "UINT8", "shape": [rows, 510], "data": values}
    return orjson.dumps({"inputs": [entry], **more})


def message(content: bytes, headers: str = "", version: str = "1.1", path: str = PATH) -> bytes:
    head = (
        f"POST {path} HTTP/{version}\r\nHost: a\r\nContent-Length: {len(content)}\r\n{headers}\r\n"
    )
    return head.encode() + content


@pytest.fixture(scope="module")
def server(launch: Callable[..., Any], archives: dict[str, Path]) -> Iterator[Any]:
    with launch(archives["tiny"]) as process:
        assert process.line().startswith("ready: ")
        yield process


@pytest.mark.parametrize(
    "content",
    [
        body(),
        body(3, id="seven"),
        body(outputs=[{"name": "logits"}]),
        body(outputs=[{"name": "logits", "parameters": {"binary_data": True}}]),
        body(3, parameters={"binary_data_output": True}),
        body(2, parameters={"binary_data_output": True}, outputs=[{"name": "logits"}]),
        body(outputs=[{"name": "chess"}]),
        body(parameters={"method": "act"}),
        body(parameters={"method": "chess"}),
        body(parameters={"sequence_id": 3}),
        body()[:-1],
        body(65),
        b"",
    ],
)
@pytest.mark.parametrize("others", [0, 1])
def test_the_application_would_answer_the_same(server: Any, content: bytes, others: int) -> None:
    # A single connection need not wait for what others might ask meanwhile.
    url = httpx.URL(server.url)
    with ExitStack() as stack:
        for _ in range(others):
            stack.enter_context(socket.create_connection((url.host, url.port or 80)))
        http = stack.enter_context(
            httpx.Client(base_url=url, trust_env=False, headers={"X-Request-Id": "one"})
        )
        quick = http.post(PATH, content=content)
        slow = http.post(PATH, content=content, headers=UNUSUAL)
    assert (quick.status_code, quick.content) == (slow.status_code, slow.content)
    for answer in (quick, slow):
        answer.headers.pop("date")
    assert quick.headers == slow.headers
    assert quick.headers["x-request-id"] == "one"


class Server:
    """Connections in this process, and what of them the application was asked."""

    def __init__(self, repository: Repository, settings: Settings | None = None) -> None:
        chosen = settings or Settings()
        app = create_app(repository, chosen)
        self.asked: list[str] = []
        self.state = ServerState()

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            self.asked.append(scope["path"])
            await app(scope, receive, send)

        self._config = uvicorn.Config(watched, lifespan="off", log_config=None, access_log=False)
        self._kind = fast_path_protocol(
            chosen,
            repository=repository,
            accounting=app.front.accounting,
            codec=app.codec,
            memory=app.body_memory,
        )

    async def connect(self) -> Client:
        loop = asyncio.get_running_loop()
        mine, theirs = socket.socketpair()
        protocol = self._kind(self._config, self.state, {}, loop)
        await loop.connect_accepted_socket(lambda: protocol, mine)
        return Client(*await asyncio.open_connection(sock=theirs))


@dataclass
class Client:
    """The other side of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, *parts: bytes) -> bytes:
        """Send the parts; return the answers: to each part that ends a request."""
        answers = b""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()
            if part.endswith(b"}"):
                head = await self.reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(x[15:]) for x in head.split(b"\r\n") if x[:15] == b"content-length:"
                )
                answers += head + await self.reader.readexactly(length)
        return answers

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@contextmanager
def counting(function: Callable[..., object]) -> Iterator[list[int]]:
    """Count the calls of a function in this thread; the count is the list's only element."""
    counted = [0]
    code = function.__code__

    def count(frame: FrameType, event: str, _: object) -> None:
        counted[0] += event == "call" and frame.f_code is code

    sys.setprofile(count)
    try:
        yield counted
    finally:
        sys.setprofile(None)


def fed(
    archives: dict[str, Path], *parts: bytes, settings: Settings | None = None
) -> tuple[bytes, list[str], int]:
    """Feed a connection; return what it wrote, what the application was asked, and the decodes."""

    async def feed() -> tuple[bytes, list[str], int]:
        repository = Repository([archives["tiny"]])
        await repository.load()
        server = Server(repository, settings)
        client = await server.connect()
        with counting(decode_request) as decodes:
            answers = await client.ask(*parts)
        await client.close()
        repository.release()
        return answers, server.asked, decodes[0]

    return asyncio.run(feed())


def asked_application(
    archives: dict[str, Path], *parts: bytes, settings: Settings | None = None
) -> tuple[bytes, list[str]]:
    """Feed a connection; return what it wrote, and the paths that the application was asked."""
    return fed(archives, *parts, settings=settings)[:2]


def test_an_ordinary_request_does_not_reach_the_application(archives: dict[str, Path]) -> None:
    whole = message(body())
    parts = (whole, whole[:30], whole[30:900], whole[900:], message(body(3)))
    answers, asked = asked_application(archives, *parts)
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert asked == []


@pytest.mark.parametrize(
    ("status", "wrong"),
    [
        (400, body()[:-2] + b"}"),
        (400, body(outputs=[{"name": "chess"}])),
        (400, body(parameters={"method": "chess"})),
        (400, body().replace(b"510", b"511")),
        (413, body(3)),
    ],
)
def test_neither_do_mistakes(archives: dict[str, Path], status: int, wrong: bytes) -> None:
    settings = Settings(max_tensor_bytes=1024)
    answers, asked, decodes = fed(archives, message(wrong), settings=settings)
    assert answers.startswith(b"HTTP/1.1 %d " % status)
    assert (decodes, asked) == (1, [])


def test_a_request_that_finds_the_queue_full_is_decoded_once(archives: dict[str, Path]) -> None:
    async def overload() -> tuple[list[bytes], list[str], list[int]]:
        repository = Repository(
            [archives["tiny"]], limits=Limits(max_queue=1, max_batch=4, delay_seconds=3600)
        )
        await repository.load()
        server = Server(repository)
        waiting = await server.connect()  # for others, to be joined with them
        others = [await server.connect() for _ in range(4)]
        with counting(decode_request) as decodes:
            waiting.writer.write(message(body()))
            answers = [await other.ask(message(body())) for other in others]
        for client in (waiting, *others):
            await client.close()
        repository.release()
        return answers, server.asked, decodes

    answers, asked, decodes = asyncio.run(overload())
    assert [answer[:13] for answer in answers] == [b"HTTP/1.1 429 "] * 4
    assert (decodes, asked) == ([5], [])


@pytest.mark.parametrize(
    "unusual",
    [
        message(body(), "Origin: http://a\r\n"),
        message(body(), "Authorization: Bearer a\r\n"),
        message(body(), "Accept-Encoding: gzip\r\n"),
        message(body(), "Connection: close\r\n"),
        message(body(), version="1.0"),
        message(body(), path=PATH + "?a"),
        message(body(), path="/v2/models/t%69ny/infer"),
        message(body(parameters={"sequence_id": 3, "sequence_start": True})),
        message(body(outputs=[{"name": "logits", "parameters": {"classification": 1}}])),
        message(body(65)),
        message(body(LARGEST // 1020)),
    ],
)
def test_an_unusual_one_does(archives: dict[str, Path], unusual: bytes) -> None:
    answers, asked = asked_application(archives, unusual)
    assert answers.count(b"HTTP/1.1 ") == 1
    assert len(asked) == 1


def test_with_api_keys_all_do(archives: dict[str, Path], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a:0123456789abcdef\n")
    answers, asked = asked_application(archives, message(body()), settings=Settings(api_keys=keys))
    assert answers.startswith(b"HTTP/1.1 401")
    assert asked == [PATH]


def test_pipelined_requests_are_answered_in_their_order(server: Any) -> None:
    kinds = [
        message(body(id=str(number)), headers)
        for number, headers in enumerate(
            ["", "", "traceparent: 1\r\n", "", "traceparent: 1\r\n", "Connection: close\r\n"]
        )
    ]
    with server.connect() as connection:
        connection.sendall(b"".join(kinds))
        answers = b"".join(iter(lambda: connection.recv(65536), b""))
    ids = [part.split(b'"')[0].decode() for part in answers.split(b'"id":"')[1:]]
    assert ids == ["0", "1", "2", "3", "4", "5"]


def test_a_server_that_ends_closes_the_connection_of_a_request_it_hands_over(
    launch: Callable[..., Any], archives: dict[str, Path]
) -> None:
    wrong = message(body()[:-1])
    head, _, rest = wrong.partition(b"\r\n\r\n")
    with launch(archives["tiny"], "--shutdown-seconds", "60") as process:
        assert process.line().startswith("ready: ")
        with process.connect() as connection, process.connect() as other:
            connection.sendall(message(body()))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
            connection.sendall(head + b"\r\n\r\n")
            other.sendall(message(body()))  # by its answer, the head before has been read
            assert other.recv(65536).startswith(b"HTTP/1.1 200 OK")
            process.popen.terminate()
            assert other.recv(65536) == b""  # an idle connection is closed at once
            connection.sendall(rest)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in answer

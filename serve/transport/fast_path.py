"""Small inference requests, answered by the connection itself: no ASGI scope, task or messages.

For most models an ASGI task costs more than all of decoding, waiting and encoding. What is unusual
in any way (a header, a large body, a sequence, a mistake) goes through the application like every
other request, so that all of its behaviour is said once, there.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, cast

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from torchship.serve.errors import NotReadyError
from torchship.serve.http.inference import DIGITS, HEADER_LENGTH, Inference, infer_target
from torchship.serve.http.middleware import ENDING, Middleware
from torchship.serve.http.proxies import Proxies
from torchship.serve.http.websocket_session import REQUEST_ID
from torchship.serve.protocol.compression import OFFERED
from torchship.serve.protocol.drafts import AnswerDraft
from torchship.serve.repository.repository import Repository
from torchship.serve.settings import Settings
from torchship.serve.transport.connection import OneWrite
from torchship.serve.transport.exchange import Exchange
from torchship.serve.transport.framing import VALID_HOST
from torchship.serve.transport.timeouts import TimeoutProtocol

if TYPE_CHECKING:
    from torchship.serve.http.app import Application

Headers = list[tuple[bytes, bytes]]

log = logging.getLogger(__name__)

LARGEST = 1 << 16  # bytes of a body; uvicorn pauses the reading of larger ones
LONGEST_TARGET = 1 << 10  # bytes; those seen are remembered

# What a request with one of these asks for is done in the application.
UNUSUAL = frozenset(
    {
        *(b"authorization", b"x-api-key", b"origin", b"content-encoding", b"transfer-encoding"),
        *(b"expect", b"upgrade", b"connection", b"traceparent"),
    }
)

NOTED = UNUSUAL | {b"host", b"content-length", HEADER_LENGTH, REQUEST_ID, b"accept-encoding"}


@lru_cache(maxsize=256)
def target_of(url: bytes, root_path: bytes = b"") -> tuple[str, str | None] | None:
    """Return the model and version that a request's target names, if it is an ordinary one.

    It may begin with `root_path`.
    """
    if root_path and url.startswith(root_path + b"/"):
        url = url.removeprefix(root_path)
    if not url.isascii() or not url.startswith(b"/") or b"%" in url or b"?" in url or b"#" in url:
        return None
    return infer_target(url.decode())


def note(headers: Headers, largest: int) -> tuple[str | None, Headers] | None:
    """Return the header length and the headers that give an id; None if any header is unusual.

    So is a body of no length, or of more than `largest` bytes, and a head without one `Host`.
    """
    announced = b""
    hosts = 0
    header_length = None
    identified = []
    for name, value in headers:
        if name not in NOTED:
            continue
        if name == b"host":
            hosts += 1 if VALID_HOST(value) else 2
        elif name == b"content-length":
            announced = value
        elif name == HEADER_LENGTH:
            header_length = value.decode("latin-1")
        elif name == REQUEST_ID:
            identified.append((name, value))
        elif name == b"accept-encoding":
            if value in OFFERED:
                return None
        elif name != b"connection" or value != b"keep-alive":
            return None
    if not announced.isdigit() or len(announced) > DIGITS or int(announced) > largest:
        return None
    if header_length == "0" or hosts != 1:
        return None
    return header_length, identified


class FastPathProtocol(TimeoutProtocol):
    """A connection that answers small and ordinary inference requests by itself."""

    inference: ClassVar[Inference]
    front: ClassVar[Middleware]
    repository: ClassVar[Repository]
    max_tensor_bytes: ClassVar[int | None] = None
    guarded = False
    largest = LARGEST
    proxies = Proxies()
    root = b""  # path below which a proxy serves this server

    _exchange: Exchange | None = None  # of the request that is coming in
    _body: bytes = b""
    _headers: Headers = []  # noqa: RUF012  of the request before; never changed
    _noted: tuple[str | None, Headers] | None = None  # what they say
    _asking: tuple[str, int] | None = None  # who they say that the request is from
    _default: ClassVar[tuple[object, bytes]] = (None, b"")

    def on_message_begin(self) -> None:
        """Take the beginning of a request; its scope is made when it turns out to need one."""
        self.began()
        self.url = b""
        self.headers = []

    def on_headers_complete(self) -> None:
        """Take the end of a request's head."""
        self._exchange = self._ordinary()
        if self._exchange is None:
            self._replay_head()
        else:
            self.cycle = self.first = cast("RequestResponseCycle", self._exchange)
            self._body = b""
            self.at = "body"

    def _ordinary(self) -> Exchange | None:
        """Return the exchange of a request of which nothing is unusual as yet."""
        target = target_of(self.url, self.root) if len(self.url) < LONGEST_TARGET else None
        parser: httptools.HttpRequestParser = self.parser
        if (
            target is None
            or self.guarded
            or parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or (self.cycle is not None and not self.cycle.response_complete)
            or self.pipeline
            or self.flow.write_paused  # who does not take answers is not given more
            or self.inflight.held + self.largest > self.inflight.most
        ):
            return None
        if self.headers != self._headers:  # most clients send the same again and again
            self._headers = self.headers
            self._noted = note(self.headers, self.largest)
            if self.proxies:
                self._asking = self.proxies.client(self.client, self.headers)
        if self._noted is None or not self.inference.has(target):
            return None
        header_length, identified = self._noted
        asking = self._asking or self.client
        return Exchange(self, target, self.front.begin(identified), header_length, asking)

    def on_body(self, body: bytes) -> None:
        """Take a part of a request's body."""
        exchange = self._exchange
        if exchange is None:
            super().on_body(body)
        else:
            self._body = self._body + body if self._body else body
            exchange.held += len(body)
            self.inflight.held += len(body)

    def on_message_complete(self) -> None:
        """Take the end of a request: let it run, or have the application answer it."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            super().on_message_complete()
            return
        exchange.more_body = False
        self.at = None
        body, self._body = self._body, b""
        try:
            entered = exchange.start(body)
        except Exception:  # the application will raise it again, and answer for it
            if exchange.response_complete:
                log.exception("after the answer to %s", exchange.record.request_id.decode())
            entered = False
        if entered or exchange.response_complete:
            return
        exchange.release()  # what follows holds it again
        self.cycle = cast("object", None)  # type: ignore[assignment]
        self._replay_head()
        if not exchange.keep_alive:  # the server began to shut down meanwhile
            self.cycle.keep_alive = False
        super().on_body(body)
        super().on_message_complete()

    def _replay_head(self) -> None:
        """Have the application answer: give uvicorn again what has come."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers += headers  # the list is in the scope
        super().on_headers_complete()

    def finish_later(self, exchange: Exchange, draft: AnswerDraft) -> None:
        """Answer when the JSON of a large answer is made, which is not done here."""
        task = self.loop.create_task(self._finish(exchange, draft))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _finish(self, exchange: Exchange, draft: AnswerDraft) -> None:
        try:
            content, length = await self.inference.codec.finish(draft)
        except Exception as error:
            if not exchange.done():
                exchange.set_exception(error)
            return
        if not exchange.done():
            exchange.answer(content, length)

    def default_head(self) -> bytes:
        """Return the header lines that every answer has; uvicorn renews them each second."""
        headers = self.server_state.default_headers
        known, lines = FastPathProtocol._default
        if headers is not known:
            lines = b"".join(b"%b: %b\r\n" % header for header in headers)
            FastPathProtocol._default = (headers, lines)
        return lines

    def send(self, data: bytes, keep_alive: bool) -> None:
        """Send an answer; `on_response_complete` goes on with the connection."""
        cast("OneWrite", self.transport).write_whole(data)
        if not keep_alive:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the client has left."""
        super().connection_lost(exc)
        if isinstance(self.first, Exchange):  # others may wait behind it
            self.first.lost()

    def abandon(self, coming: RequestResponseCycle, status: int) -> None:
        """Count a request whose body will not be read to its end."""
        if isinstance(coming, Exchange):
            coming.lost()
        else:
            super().abandon(coming, status)

    def refusal_headers(self, coming: RequestResponseCycle | None) -> Headers:
        """Return what a refusal says of the page that asks, if that is known."""
        if isinstance(coming, RequestResponseCycle):
            return self.front.origins.headers(coming.scope["headers"])
        return self.front.origins.headers(self._refused_head()[1])

    def count_refusal(self, status: int) -> None:
        """Count and log an answer to what never became a request, with the model if it is known."""
        url, headers = self._refused_head()
        record = self.front.begin(headers)
        target = target_of(url, self.root)
        if target is not None:
            self.inference.name(target, record)
        record.status = status
        method = self.parser.get_method().decode() if url else ""
        scope = {"method": method, "path": url.decode("latin-1"), "raw_path": url}
        client = self.proxies.client(self.client, headers)
        self.front.ended({**scope, "client": client}, record)

    def _refused_head(self) -> tuple[bytes, Headers]:
        """Return the target and the headers of what comes, as far as it is a request."""
        if self.headers is None or self.at in ("idle", None):  # they are of the request before
            return b"", []
        return self.url, self.headers

    def give_up(self) -> None:
        """Say that the server ends to whom the application would not: uvicorn cancels its tasks."""
        if isinstance(self.first, Exchange) and not self.first.done():
            self.first.set_exception(NotReadyError(ENDING))


def fast_path_protocol(settings: Settings, app: Application) -> type[FastPathProtocol]:
    """Return the protocol class of an application, with the times of the settings."""

    class Timed(FastPathProtocol):
        inference = app.infer
        front = app.front
        repository = app.repository
        max_tensor_bytes = settings.max_tensor_bytes
        inflight = app.inflight
        proxies = app.proxies
        root = settings.root_path.encode()
        # Keys and traces are the application's.
        guarded = settings.api_keys is not None or app.tracer is not None
        largest = min(LARGEST, settings.max_body_bytes)
        header_seconds = settings.header_seconds
        body_seconds = settings.body_seconds
        send_seconds = settings.send_seconds

    return Timed

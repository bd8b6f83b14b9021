"""Small inference requests, answered by the connection itself: no ASGI scope, task or messages.

For most models an ASGI task costs more than all of decoding, waiting and encoding. What the
connection cannot answer (an unusual header, a large body, a sequence, class labels) goes through
the application. What it answers, errors included, is byte for byte what the application would send.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import ClassVar, cast

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from torchship.script.errors import TorchShipError
from torchship.serve.http.header_names import REQUEST_ID
from torchship.serve.http.origins import Origins
from torchship.serve.http.proxies import Proxies
from torchship.serve.protocol.large_json import LargeJsonCodec
from torchship.serve.repository.repository import Repository
from torchship.serve.service.accounting import RequestAccounting
from torchship.serve.service.failures import shutting_down
from torchship.serve.settings import Settings
from torchship.serve.system.body_memory import BodyMemory
from torchship.serve.telemetry.records import Record
from torchship.serve.transport.fast_header import LONGEST_TARGET, Headers, note, target_of
from torchship.serve.transport.fast_request import FastRequest, Services
from torchship.serve.transport.http_answer import header_lines
from torchship.serve.transport.timeouts import TimeoutProtocol

log = logging.getLogger(__name__)

LARGEST = 1 << 16  # bytes of a body; uvicorn pauses the reading of larger ones


class FastPathProtocol(TimeoutProtocol):
    """A connection that answers small and ordinary inference requests by itself."""

    services: ClassVar[Services]
    guarded = False
    """Whether every request must go through the application."""
    largest = LARGEST
    root = b""
    """The path below which a proxy serves this server."""

    _incoming: FastRequest | None = None  # while its body comes
    _latest: FastRequest | None = None  # the last that began, until the application has it
    _body: bytes = b""
    _headers: Headers = []  # noqa: RUF012  of the request before; never changed
    _noted: tuple[str | None, Headers] | None = None  # what they say
    _asking: tuple[str, int] | None = None  # who they say that the request is from

    def on_message_begin(self) -> None:
        """Note that a request begins; its scope is made only if the application needs one."""
        self.began()
        self.url = b""
        self.headers = []

    def on_headers_complete(self) -> None:
        """Decide from the header who answers the request.

        Raises:
            ConnectionError: the answer before was the last; this stops the parser.
        """
        if self.transport.is_closing():
            raise ConnectionError("the connection has ended with the answer before")
        self._incoming = request = self._ordinary()
        if request is None:
            self._replay_header()
        else:
            self._latest = request
            self.cycle = self.first = cast("RequestResponseCycle", request.cycle)
            self._body = b""
            self.at = "body"

    def _ordinary(self) -> FastRequest | None:
        """Return the request if nothing in its header is unusual; None for the application."""
        target = target_of(self.url, self.root) if len(self.url) < LONGEST_TARGET else None
        parser: httptools.HttpRequestParser = self.parser
        if (
            target is None
            or self.guarded
            or parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or (self.cycle is not None and not self.cycle.response_complete)
            or self.pipeline
            or self.flow.write_paused  # a client that does not take answers is not given more
            or self.body_memory.held + self.largest > self.body_memory.most
        ):
            return None
        services = self.services
        if self.headers != self._headers:  # most clients send the same again and again
            self._headers = self.headers
            self._noted = note(self.headers, self.largest)
            if services.proxies:
                self._asking = services.proxies.client(self.client, self.headers)
        if self._noted is None:
            return None
        header_length, identified = self._noted
        try:
            engine = services.repository.find(*target)
        except TorchShipError:
            return None
        record = services.accounting.begin(identified)
        client = self._asking or self.client
        return FastRequest(self, services, engine, record, header_length, client)

    def on_body(self, body: bytes) -> None:
        """Keep a part of a request's body."""
        request = self._incoming
        if request is None:
            super().on_body(body)
        else:
            self._body = self._body + body if self._body else body
            request.hold(len(body))

    def on_message_complete(self) -> None:
        """Let a complete request run, or have the application answer it."""
        request, self._incoming = self._incoming, None
        if request is None:
            super().on_message_complete()
            return
        request.cycle.more_body = False
        self.at = None
        body, self._body = self._body, b""
        try:
            started = request.start(body)
        except Exception as error:
            if request.done():
                log.exception("after the answer to %s", request.record.request_id.decode())
            else:
                # In the next turn of the event loop, as the application would: if the connection
                # is to end with this answer, what the client has sent behind it is known by then.
                self.loop.call_soon(request.fail, error)
            return
        if not started:
            self._hand_over(request, body)

    def _hand_over(self, request: FastRequest, body: bytes) -> None:
        """Have the application answer a whole request."""
        request.release()  # what follows holds it again
        self._latest = None
        self.cycle = cast("object", None)  # type: ignore[assignment]
        self._replay_header()
        if not request.cycle.keep_alive:  # the server began to shut down meanwhile
            self.cycle.keep_alive = False
        super().on_body(body)
        super().on_message_complete()

    def _replay_header(self) -> None:
        """Have the application answer: give uvicorn the header again."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers += headers  # the list is in the scope
        super().on_headers_complete()

    def _answering(self) -> FastRequest | None:
        """Return the request whose turn it is, if the application does not answer it."""
        latest = self._latest
        return latest if latest is not None and self.first is latest.cycle else None  # type: ignore[comparison-overlap]

    def connection_lost(self, exc: Exception | None) -> None:
        """Account for a request whose client has left."""
        super().connection_lost(exc)
        request = self._answering()  # others may wait behind it
        if request is not None:
            request.lost()

    def account_refusal(self, coming: RequestResponseCycle | None, status: int) -> Headers:
        """Account for a refusal; return its request id, and what it says of a page that asks."""
        url, headers = self._refused_header()
        if coming is None:
            record = self._count_refusal(status, url, headers)
        elif isinstance(coming, RequestResponseCycle):
            scope = cast("Scope", coming.scope)
            headers = scope["headers"]
            record = self.services.accounting.record_of(scope)
            self.abandon(coming, status)
        else:
            assert self._latest is not None
            record = self._latest.record
            self._latest.lost()
        return [*self.services.origins.headers(headers), (REQUEST_ID, record.request_id)]

    def _count_refusal(self, status: int, url: bytes, headers: Headers) -> Record:
        """Account for an answer to what never became a request, with the model if it is known."""
        record = self.services.accounting.begin(headers)
        target = target_of(url, self.root)
        if target is not None:
            with suppress(TorchShipError):
                manifest = self.services.repository.find(*target).manifest
                record.model, record.version = manifest.name, manifest.version
        record.status = status
        method = self.parser.get_method().decode() if url else ""
        scope = {"method": method, "path": url.decode("latin-1"), "raw_path": url}
        client = self.services.proxies.client(self.client, headers)
        self.services.accounting.end({**scope, "client": client}, record)
        return record

    def _refused_header(self) -> tuple[bytes, Headers]:
        """Return the target and the fields of what is received, as far as it is a request."""
        if self.headers is None or self.at in (
            "idle",
            None,
        ):  # they are those of the request before
            return b"", []
        return self.url, self.headers

    def give_up(self) -> None:
        """Answer the request that still waits, because the server ends.

        Those of the application are answered when uvicorn cancels their tasks.
        """
        request = self._answering()
        if request is not None:
            request.fail(shutting_down())


def fast_path_protocol(
    settings: Settings,
    *,
    repository: Repository,
    accounting: RequestAccounting,
    codec: LargeJsonCodec,
    memory: BodyMemory,
    origins: Origins | None = None,
    trusted: Proxies | None = None,
    traced: bool = False,
) -> type[FastPathProtocol]:
    """Return the class of a server's connections.

    Args:
        settings: limits, times, and whether API keys are asked for.
        repository: the models.
        accounting: takes in what every request came to.
        codec: writes large JSON.
        memory: for the bodies of all requests.
        origins: the pages that may ask.
        trusted: the proxies that are believed.
        traced: whether requests are traced, which the application does.
    """
    allowed = origins or Origins()

    class ServerConnection(FastPathProtocol):
        services = Services(
            repository=repository,
            accounting=accounting,
            origins=allowed,
            codec=codec,
            proxies=trusted or Proxies(),
            max_tensor_bytes=settings.max_tensor_bytes,
            origin_lines=header_lines(allowed.headers(())),
        )
        body_memory = memory
        root = settings.root_path.encode()
        guarded = traced or settings.api_keys is not None
        largest = min(LARGEST, settings.max_body_bytes)
        header_seconds = settings.header_seconds
        body_seconds = settings.body_seconds
        send_seconds = settings.send_seconds

    return ServerConnection

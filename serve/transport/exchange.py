"""One request that the connection answers by itself, and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from torchship.serve.engine.engine import Engine
from torchship.serve.errors import ClientGoneError
from torchship.serve.http.inference import HEADER_LENGTH
from torchship.serve.http.middleware import answer
from torchship.serve.http.websocket_session import CLIENT_LEFT, REQUEST_ID
from torchship.serve.protocol.drafts import Draft
from torchship.serve.protocol.messages import InferRequest, encode_outputs
from torchship.serve.protocol.tensors import Packed
from torchship.serve.telemetry.records import Record

if TYPE_CHECKING:
    from torchship.serve.transport.fast_path import Direct

JSON = b"content-type: application/json\r\n"
BINARY = b"content-type: application/octet-stream\r\n" + HEADER_LENGTH + b": %d\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\n%b%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n"
CLOSE = b"connection: close\r\n"


class Exchange:
    """One request and its answer: to uvicorn a cycle, to the engine the future of its outputs."""

    __slots__ = (
        "client",
        "disconnected",
        "engine",
        "header_length",
        "held",
        "keep_alive",
        "more_body",
        "protocol",
        "record",
        "request",
        "response_complete",
        "target",
        "url",
    )

    response_started = False  # it begins and ends in one write
    message_event: ClassVar = SimpleNamespace(set=lambda: None)
    scope: ClassVar = {"http_version": "1.1"}

    def __init__(
        self,
        connection: Direct,
        target: tuple[str, str | None],
        record: Record,
        header_length: str | None,
        client: tuple[str, int] | None,
    ) -> None:
        self.client = client
        self.protocol = connection
        self.url = connection.url
        self.target = target
        self.record = record
        self.header_length = header_length
        self.held = 0
        self.engine: Engine | None = None
        self.request: InferRequest | None = None
        self.keep_alive = True
        self.more_body = True
        self.disconnected = False
        self.response_complete = False

    def run(self, engine: Engine, request: InferRequest, inputs: Mapping[str, Packed]) -> bool:
        """Let the request wait for the engine; return False if it is not as simple as that."""
        signature = engine.signature(request.method)
        self.request = request
        self.engine = engine.__enter__()
        self.record.model = engine.manifest.name
        self.record.version = engine.manifest.version
        self.record.decoded = perf_counter()
        entered = False
        try:
            entered = engine.enter(
                request.method,
                inputs,
                self,
                wanted=signature.wanted(request.asked),
                priority=request.priority,
                timeout=request.timeout,
                gone=self.left,
                alone=len(self.protocol.connections) == 1,
                source=self.client,
            )
        finally:
            if not entered:
                self._let_go()
        return entered

    def left(self) -> bool:
        """Return whether the client has left."""
        return self.disconnected

    def done(self) -> bool:
        """Return whether nothing is to be answered any more."""
        return self.response_complete or self.disconnected

    cancelled = done

    def set_result(self, outputs: Mapping[str, Packed]) -> None:
        """Answer with the outputs of the model."""
        assert self.engine is not None and self.request is not None
        record = self.record
        record.answered = perf_counter()
        try:
            manifest, request = self.engine.manifest, self.request
            made = encode_outputs(request, manifest.name, manifest.version, outputs, request.id)
            if isinstance(made, Draft):
                self.protocol.finish_later(self, made)
                return
        except Exception as error:
            self.set_exception(error)
            return
        self.answer(*made)

    def answer(self, content: bytes, length: int | None) -> None:
        """Answer with a body whose JSON has that length, or is all."""
        record = self.record
        record.encoded = perf_counter()
        record.status = 200
        head = ANSWER % (
            self.protocol.default_head(),
            JSON if length is None else BINARY % length,
            len(content),
            record.request_id,
            b"" if self.keep_alive else CLOSE,
        )
        self._finish(head + content)

    def set_exception(self, error: Exception) -> None:
        """Answer with what went wrong."""
        if isinstance(error, ClientGoneError):
            self.lost()
            return
        response = answer(error, self.record)
        self.record.status = response.status_code
        headers = [*response.raw_headers, (REQUEST_ID, self.record.request_id)]
        closes = any(name == b"connection" for name, _ in headers)
        if not self.keep_alive and not closes:
            headers.append((b"connection", b"close"))
        self.keep_alive = self.keep_alive and not closes
        lines = (b"%b: %b\r\n" % header for header in headers)
        parts = (STATUS_LINE[response.status_code], self.protocol.default_head(), *lines, b"\r\n")
        self._finish(b"".join((*parts, bytes(response.body))))

    def _finish(self, data: bytes) -> None:
        self.response_complete = True
        self.protocol.send(data, self.keep_alive)
        self._count()  # while the client reads
        self.protocol.on_response_complete()

    def lost(self) -> None:
        """Take note that the client has left without an answer."""
        self.disconnected = True
        if not self.response_complete:
            self.response_complete = True
            self.record.status = self.protocol.refused or CLIENT_LEFT
            if self.request is None:  # its body was not complete
                self.protocol.inference.name(self.target, self.record)
            self._count()

    def release(self) -> None:
        """Hold no part of its body any more."""
        self.protocol.inflight.held -= self.held
        self.held = 0

    def _let_go(self) -> None:
        if self.engine is not None:
            self.engine.__exit__()
            self.engine = self.request = None  # an idle connection keeps neither

    def _count(self) -> None:
        self._let_go()
        self.release()
        scope = {"method": "POST", "path": self.url.decode(), "raw_path": self.url}
        self.protocol.front.ended({**scope, "client": self.client}, self.record)

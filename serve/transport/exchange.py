"""One request that the connection answers by itself, and its answer."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from types import SimpleNamespace
from typing import Any, ClassVar, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from torchship.serve.engine.engine import Engine
from torchship.serve.errors import ClientGoneError
from torchship.serve.http.inference import HEADER_LENGTH, Inference, check_sizes
from torchship.serve.http.middleware import Middleware, answer
from torchship.serve.http.websocket_session import CLIENT_LEFT, REQUEST_ID
from torchship.serve.protocol.drafts import AnswerDraft
from torchship.serve.protocol.messages import InferRequest, decode_packed, encode_outputs
from torchship.serve.protocol.tensors import RawTensor
from torchship.serve.repository.repository import Repository
from torchship.serve.system.body_memory import BodyMemory
from torchship.serve.telemetry.records import Record

JSON = b"content-type: application/json\r\n"
BINARY = b"content-type: application/octet-stream\r\n" + HEADER_LENGTH + b": %d\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\n%b%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n"
CLOSE = b"connection: close\r\n"


class AnsweringConnection(Protocol):
    """What an exchange needs of the connection that it came on."""

    repository: ClassVar[Repository]
    inference: ClassVar[Inference]
    front: ClassVar[Middleware]
    inflight: BodyMemory
    max_tensor_bytes: ClassVar[int | None]
    connections: set[Any]
    url: bytes
    refused: int

    def finish_later(self, exchange: Exchange, draft: AnswerDraft) -> None:
        """Answer when the JSON of a large answer is made."""

    def default_head(self) -> bytes:
        """Return the header lines that every answer has."""

    def send(self, data: bytes, keep_alive: bool) -> None:
        """Send an answer."""

    def on_response_complete(self) -> None:
        """Go on with the connection."""


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
        connection: AnsweringConnection,
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

    def start(self, body: bytes) -> bool:
        """Let the request wait for its model; False for what the application must answer.

        That is a sequence, class labels, strings, and what takes several calls.

        Raises:
            TorchShipError: the request cannot be answered.
        """
        self.record.decode_started = perf_counter()
        engine = self.protocol.repository.find(*self.target)
        request, given = decode_packed(body, self.header_length)
        if request.in_sequence or any(output.classes for output in request.outputs):
            return False
        inputs = {name: value for name, value in given.items() if isinstance(value, RawTensor)}
        if len(inputs) < len(given):
            return False
        if self.protocol.max_tensor_bytes is not None:
            check_sizes(inputs, self.protocol.max_tensor_bytes)
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

    def set_result(self, outputs: Mapping[str, RawTensor]) -> None:
        """Answer with the outputs of the model."""
        assert self.engine is not None and self.request is not None
        record = self.record
        record.inference_finished = perf_counter()
        try:
            manifest, request = self.engine.manifest, self.request
            made = encode_outputs(request, manifest.name, manifest.version, outputs, request.id)
            if isinstance(made, AnswerDraft):
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

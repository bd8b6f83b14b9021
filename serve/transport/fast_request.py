"""One request that its connection answers by itself: from its body to the engine, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from types import SimpleNamespace
from typing import ClassVar, cast

from torchship.serve.engine.engine import Engine
from torchship.serve.errors import ClientGoneError
from torchship.serve.http.error_responses import answer
from torchship.serve.http.header_names import HEADER_LENGTH, REQUEST_ID
from torchship.serve.http.origins import Origins
from torchship.serve.http.proxies import Proxies
from torchship.serve.protocol.drafts import AnswerDraft
from torchship.serve.protocol.large_json import LargeJsonCodec
from torchship.serve.protocol.messages import InferRequest, decode_request, encode_outputs
from torchship.serve.protocol.tensors import RawTensor, check_sizes
from torchship.serve.repository.repository import Repository
from torchship.serve.service.accounting import CLIENT_LEFT, RequestAccounting
from torchship.serve.telemetry.records import Record
from torchship.serve.transport.connection import OneWrite
from torchship.serve.transport.http_answer import header_lines, http_answer
from torchship.serve.transport.timeouts import TimeoutProtocol

JSON = b"content-type: application/json\r\n"
BINARY = b"content-type: application/octet-stream\r\n" + HEADER_LENGTH + b": %d\r\n"
LINES = b"%b%bcontent-length: %d\r\n%b" + REQUEST_ID + b": %b\r\n"


@dataclass(frozen=True)
class Services:
    """What the connections of one server have together."""

    repository: Repository
    accounting: RequestAccounting
    origins: Origins
    codec: LargeJsonCodec
    proxies: Proxies
    max_tensor_bytes: int | None = None
    origin_lines: bytes = b""
    """What an answer says of origins to a request that names none."""


class FastCycle:
    """What uvicorn's connection sees of such a request, instead of a `RequestResponseCycle`."""

    __slots__ = ("disconnected", "keep_alive", "more_body", "response_complete")

    response_started = False  # the answer begins and ends in one write
    message_event: ClassVar = SimpleNamespace(set=lambda: None)  # no task waits for the body
    scope: ClassVar = {"http_version": "1.1"}

    def __init__(self) -> None:
        self.keep_alive = True
        self.more_body = True
        self.disconnected = False
        self.response_complete = False


class FastRequest:
    """One request and its answer; the engine tells it the outputs, as it would tell a future."""

    __slots__ = (
        "_connection",
        "_engine",
        "_header_length",
        "_held",
        "_request",
        "_services",
        "_url",
        "client",
        "cycle",
        "record",
    )

    def __init__(
        self,
        connection: TimeoutProtocol,
        services: Services,
        engine: Engine,
        record: Record,
        header_length: str | None,
        client: tuple[str, int] | None,
    ) -> None:
        """Begin with the header of a request; its body has still to come.

        Args:
            connection: where the request came from.
            services: what all connections have together.
            engine: the model that is asked, held until the request has ended: a newer version
                that takes over meanwhile leaves it to the request.
            record: what is accounted for.
            header_length: the value of `Inference-Header-Content-Length`.
            client: who asks.
        """
        self.cycle = FastCycle()
        self.client = client
        self.record = record
        self._connection = connection
        self._services = services
        self._header_length = header_length
        self._url = connection.url
        self._held = 0
        self._request: InferRequest | None = None
        self._engine: Engine | None = engine.__enter__()
        record.model, record.version = engine.manifest.name, engine.manifest.version

    def hold(self, size: int) -> None:
        """Take note of a part of the body, of `size` bytes."""
        self._held += size
        self._connection.body_memory.held += size

    def start(self, body: bytes) -> bool:
        """Let the request wait for its model; False for what the application must answer.

        That is a sequence, class labels, and what takes several calls.

        Raises:
            Exception: what the request is to be answered with; see `fail`.
        """
        record, engine = self.record, self._engine
        assert engine is not None
        record.decode_started = perf_counter()
        request = decode_request(body, self._header_length)
        if request.in_sequence or any([output.classes for output in request.outputs]):
            return False
        if self._services.max_tensor_bytes is not None:
            check_sizes(request.inputs, self._services.max_tensor_bytes)
        signature = engine.signature(request.method)
        inputs = signature.to_flat(request.inputs)
        self._request = request
        record.decoded = perf_counter()
        return engine.enter(
            request.method,
            inputs,
            self,
            wanted=signature.wanted(request.asked),
            priority=request.priority,
            timeout=request.timeout,
            gone=self.left,
            alone=len(self._connection.connections) == 1,
            source=self.client,
        )

    def left(self) -> bool:
        """Return whether the client has left."""
        return self.cycle.disconnected

    def done(self) -> bool:
        """Return whether nothing is to be answered any more."""
        return self.cycle.response_complete or self.cycle.disconnected

    cancelled = done

    def set_result(self, outputs: Mapping[str, RawTensor]) -> None:
        """Answer with the outputs of the model."""
        engine, request = self._engine, self._request
        assert engine is not None and request is not None
        self.record.inference_finished = perf_counter()
        try:
            manifest = engine.manifest
            made = encode_outputs(request, manifest.name, manifest.version, outputs, request.id)
        except Exception as error:
            self.set_exception(error)
            return
        if isinstance(made, AnswerDraft):
            self._finish_later(made)
        else:
            self._answer(*made)

    def set_exception(self, error: Exception) -> None:
        """Answer with what went wrong."""
        if isinstance(error, ClientGoneError):
            self.lost()
            return
        response = answer(error, self.record)
        content = bytes(response.body)
        lines = b"".join(
            (
                self._connection.default_lines(),
                header_lines(response.raw_headers),
                self._services.origin_lines,
                header_lines([(REQUEST_ID, self.record.request_id)]),
            )
        )
        closes = "connection" in response.headers  # then that line is there already
        self.cycle.keep_alive = self.cycle.keep_alive and not closes
        last = not self.cycle.keep_alive and not closes
        self._finish(response.status_code, http_answer(response.status_code, lines, content, last))

    def fail(self, error: Exception) -> None:
        """Answer with what `start` raised, if the client still waits for an answer."""
        if not self.done():
            self.set_exception(error)

    def lost(self) -> None:
        """Take note that the client has left, or that the connection itself has refused it."""
        cycle = self.cycle
        cycle.disconnected = True
        if not cycle.response_complete:
            cycle.response_complete = True
            self.record.status = self._connection.refused or CLIENT_LEFT
            self._end()

    def release(self) -> None:
        """Hold neither the body nor the engine any more: an idle connection keeps neither."""
        self._connection.body_memory.held -= self._held
        self._held = 0
        if self._engine is not None:
            self._engine.__exit__()
            self._engine = self._request = None

    def _answer(self, content: bytes, length: int | None) -> None:
        """Answer with a body; the JSON at its beginning has that length, or is all of it."""
        record = self.record
        record.encoded = perf_counter()
        lines = LINES % (
            self._connection.default_lines(),
            JSON if length is None else BINARY % length,
            len(content),
            self._services.origin_lines,
            record.request_id,
        )
        self._finish(200, http_answer(200, lines, content, not self.cycle.keep_alive))

    def _finish_later(self, draft: AnswerDraft) -> None:
        """Answer when the JSON of a large answer is made, which is not done here."""
        connection = self._connection
        task = connection.loop.create_task(self._complete(draft))
        connection.tasks.add(task)
        task.add_done_callback(connection.tasks.discard)

    async def _complete(self, draft: AnswerDraft) -> None:
        try:
            content, length = await self._services.codec.finish(draft)
        except Exception as error:
            self.fail(error)
            return
        if not self.done():
            self._answer(content, length)

    def _finish(self, status: int, data: bytes) -> None:
        self.record.status = status
        self.cycle.response_complete = True
        transport = cast("OneWrite", self._connection.transport)
        transport.write_whole(data)
        if not self.cycle.keep_alive:
            transport.close()
        self._end()  # while the client reads
        self._connection.on_response_complete()

    def _end(self) -> None:
        self.release()
        scope = {"method": "POST", "path": self._url.decode(), "raw_path": self._url}
        self._services.accounting.end({**scope, "client": self.client}, self.record)

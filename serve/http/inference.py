"""The hot path: a plain ASGI application from a request's body to its answer.

It is reached before FastAPI's router and middleware, which would take longer than most models do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from torchship.script.errors import TorchShipError
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import BodyTooLargeError, RequestError, TensorTooLargeError
from torchship.serve.protocol import messages as protocol
from torchship.serve.protocol.compression import (
    OFFERED,
    deflate,
    encoding_of,
    inflate,
    largest_inflated,
)
from torchship.serve.protocol.drafts import LARGE_JSON
from torchship.serve.protocol.large_json import LargeJsonCodec
from torchship.serve.protocol.output_encoding import encode_answer
from torchship.serve.protocol.raw_request import decode_raw
from torchship.serve.protocol.tensors import Strings, Wire
from torchship.serve.repository.repository import Repository
from torchship.serve.sequences.sequences import Sequences
from torchship.serve.settings import Settings
from torchship.serve.system.body_memory import BodyHold, hold_of
from torchship.serve.telemetry.records import SCOPE_KEY, Record

HEADER_LENGTH = protocol.HEADER_LENGTH.lower().encode()
JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")
DIGITS = 20  # of the largest number of 64 bits


def infer_target(path: str) -> tuple[str, str | None] | None:
    """Return the model and the version that an inference path names; None for another path."""
    match path.split("/"):
        case ["", "v2", "models", model, "infer"] if model:
            return model, None
        case ["", "v2", "models", model, "versions", version, "infer"] if model and version:
            return model, version
    return None


class Inference:
    """Answers `POST /v2/models/{model}[/versions/{version}]/infer`."""

    def __init__(
        self,
        repository: Repository,
        sequences: Sequences,
        settings: Settings,
        codec: LargeJsonCodec,
    ) -> None:
        self.codec = codec
        self._repository = repository
        self._sequences = sequences
        self._max_body_bytes = settings.max_body_bytes
        self._max_tensor_bytes = settings.max_tensor_bytes

    def has(self, target: tuple[str, str | None]) -> bool:
        """Return whether that model and version is live."""
        try:
            self._repository.find(*target)
        except TorchShipError:
            return False
        return True

    def name(self, target: tuple[str, str | None], record: Record) -> None:
        """Tell a record which model and version it is of, if that is live."""
        with suppress(TorchShipError):
            manifest = self._repository.find(*target).manifest
            record.model, record.version = manifest.name, manifest.version

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            TorchShipError: the request cannot be answered; nothing was sent.
            ClientDisconnect: the client left before its request was complete.
        """
        target = infer_target(scope["path"])
        if target is None:
            raise RequestError(f"{scope['path']}: expected an inference path")
        # Held, so that a newer version that takes over meanwhile leaves this request its engine.
        with self._repository.find(*target) as engine:
            record: Record = scope.get(SCOPE_KEY) or Record()
            record.model, record.version = engine.manifest.name, engine.manifest.version
            await self._answer(engine, target, record, scope, receive, send)

    async def _answer(
        self,
        engine: Engine,
        target: tuple[str, str | None],
        record: Record,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        hold = hold_of(scope)
        body = await read_body(headers, receive, self._max_body_bytes, hold)
        record.decode_started = time.perf_counter()
        encoding = headers.get(b"content-encoding")
        if encoding is not None:  # in another thread: a large body must not hold up the others
            name = encoding_of(encoding.decode("latin-1"))
            size = largest_inflated(name, len(body), self._max_body_bytes)
            hold.grow(size)
            content = await asyncio.to_thread(inflate, name, body, self._max_body_bytes)
            hold.add(len(content) - len(body) - size)
            body = content
        header_length = headers.get(HEADER_LENGTH)
        if header_length == b"0":
            request = decode_raw(engine.signature("forward").method, body)
        else:
            request = await self.codec.decode(
                body, None if header_length is None else header_length.decode("latin-1"), hold
            )
        if self._max_tensor_bytes is not None:
            check_sizes(request.inputs, self._max_tensor_bytes)
        gone = _watch(receive)
        if request.in_sequence:
            record.decoded = time.perf_counter()
            content, length = await self._sequences.answer(*target, request, gone, record)
        else:
            content, length = await _run(self.codec, engine, request, record, gone)
        answered: list[tuple[bytes, bytes]] = (
            [JSON] if length is None else [BINARY, (HEADER_LENGTH, b"%d" % length)]
        )
        accepted = headers.get(b"accept-encoding")
        if accepted in OFFERED:
            content = await asyncio.to_thread(deflate, accepted, content)
            answered.append((b"content-encoding", accepted))
        answered.append((b"content-length", b"%d" % len(content)))
        record.encoded = time.perf_counter()
        await send({"type": "http.response.start", "status": 200, "headers": answered})
        await send({"type": "http.response.body", "body": content})


def check_sizes(inputs: Mapping[str, Wire], limit: int) -> None:
    """Refuse a request with an input of more than `limit` bytes.

    Raises:
        TensorTooLargeError: naming the input, its size and the limit.
    """
    for name, value in inputs.items():
        size = sum(map(len, value.items)) if isinstance(value, Strings) else value.nbytes
        if size > limit:
            raise TensorTooLargeError(f"input '{name}': expected at most {limit} bytes, got {size}")


def _watch(receive: Receive) -> Callable[[], bool] | None:
    """Return whether the client has left, where uvicorn tells: ASGI has no word for a look."""
    cycle = getattr(receive, "__self__", None)
    if not hasattr(cycle, "disconnected"):
        return None
    return partial(getattr, cycle, "disconnected")


async def _run(
    codec: LargeJsonCodec,
    engine: Engine,
    request: protocol.InferRequest,
    record: Record,
    gone: Callable[[], bool] | None,
) -> tuple[bytes, int | None]:
    signature = engine.signature(request.method)
    inputs = signature.to_flat(request.inputs)
    record.decoded = time.perf_counter()
    outputs = await engine.call(
        request.method,
        inputs,
        wanted=signature.wanted(request.asked),
        priority=request.priority,
        timeout=request.timeout,
        gone=gone,
    )
    record.inference_finished = time.perf_counter()
    return await encode_answer(codec, engine.manifest, request, outputs)


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, limit: int, hold: BodyHold | None = None
) -> bytes | bytearray:
    """Return the request's body, of at most `limit` bytes; `hold` is told what else there is.

    Raises:
        BodyTooLargeError: as soon as more was announced or has come.
        OverloadError: as soon as more was announced or has come than there is room for.
        ClientDisconnect: the client left before the end.
    """
    hold = hold or hold_of({})
    announced = headers.get(b"content-length", b"")
    # The parser has seen to it that it is below 2^64: what stands before the last digits is zeros.
    length = int(announced[-DIGITS:]) if announced.isdigit() else 0
    limit = min(limit, hold.inflight.most)  # what does not fit in alone never will
    if length > limit:
        raise BodyTooLargeError(f"the body is too large: expected at most {limit} bytes")
    hold.inflight.check(length - hold.size)
    body = b""
    whole = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body = message.get("body", b"")
        more = message.get("more_body", False)
        if more or whole:
            whole += body
        if max(len(whole), len(body)) > limit:
            raise BodyTooLargeError(f"the body is too large: expected at most {limit} bytes")
        hold.inflight.check()
    return whole or body


async def read_small_body(scope: Scope, receive: Receive, limit: int) -> bytes | bytearray:
    """Return the body of a request that has a few parameters only: its JSON is read at once.

    Raises:
        BodyTooLargeError, OverloadError, ClientDisconnect: as `read_body`.
    """
    return await read_body(dict(scope["headers"]), receive, min(limit, LARGE_JSON), hold_of(scope))

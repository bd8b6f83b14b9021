"""Inference requests: a plain ASGI application from a request's body to its answer.

It stands in front of FastAPI's router and middleware, which would take longer than most models do.
Small and ordinary requests do not even come here: their connection answers them (`fast_path`).
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

from starlette.types import Receive, Scope, Send

from torchship.serve.engine.engine import Engine
from torchship.serve.errors import RequestError
from torchship.serve.http.body import read_body
from torchship.serve.http.client_connection import has_left
from torchship.serve.http.header_names import HEADER_LENGTH
from torchship.serve.http.targets import infer_target
from torchship.serve.protocol.compression import (
    OFFERED,
    deflate,
    encoding_of,
    inflate,
    largest_inflated,
)
from torchship.serve.protocol.large_json import LargeJsonCodec
from torchship.serve.protocol.output_encoding import encode_answer
from torchship.serve.protocol.raw_request import decode_raw
from torchship.serve.repository.repository import Repository
from torchship.serve.sequences.sequences import Sequences
from torchship.serve.service.inference import InferenceService, Target
from torchship.serve.settings import Settings
from torchship.serve.system.body_memory import hold_of
from torchship.serve.telemetry.records import SCOPE_KEY, Record

JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")


class Inference:
    """Answers `POST /v2/models/{model}[/versions/{version}]/infer`."""

    def __init__(
        self,
        repository: Repository,
        sequences: Sequences,
        settings: Settings,
        codec: LargeJsonCodec,
    ) -> None:
        self._codec = codec
        self._repository = repository
        self._encode = partial(encode_answer, codec)
        self._max_body_bytes = settings.max_body_bytes
        self._service = InferenceService(sequences, settings.max_tensor_bytes)

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
        target: Target,
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
            request = await self._codec.decode(
                body, None if header_length is None else header_length.decode("latin-1"), hold
            )
        answer: bytes
        answer, length = await self._service.run(
            *(engine, target, request, self._encode, record, partial(has_left, receive))
        )
        answered: list[tuple[bytes, bytes]] = (
            [JSON] if length is None else [BINARY, (HEADER_LENGTH, b"%d" % length)]
        )
        accepted = headers.get(b"accept-encoding")
        if accepted in OFFERED:
            answer = await asyncio.to_thread(deflate, accepted, answer)
            answered.append((b"content-encoding", accepted))
        answered.append((b"content-length", b"%d" % len(answer)))
        record.encoded = time.perf_counter()
        await send({"type": "http.response.start", "status": 200, "headers": answered})
        await send({"type": "http.response.body", "body": answer})

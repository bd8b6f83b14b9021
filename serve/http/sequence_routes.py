"""Routes for sequences: their state over HTTP, and the WebSocket that steps one.

A message of the stream is an inference request as the protocol has it: as text, its JSON; as
binary, with tensors after it, `[length of the JSON: uint32, little-endian][JSON][tensor bytes]`.
"""

from __future__ import annotations

import re
import struct
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import orjson
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from torchship.serve.errors import RequestError
from torchship.serve.http.auth import ADMIT_KEY, SUBPROTOCOL
from torchship.serve.http.body import read_body
from torchship.serve.http.error_responses import answer, error_response
from torchship.serve.http.openapi import OCTETS, answers, errors
from torchship.serve.http.schemas import SequenceCount
from torchship.serve.http.websocket_session import account_of
from torchship.serve.protocol.drafts import Body
from torchship.serve.protocol.large_json import LargeJsonCodec
from torchship.serve.protocol.tensors import check_sizes, short
from torchship.serve.sequences.sequences import Sequences, Stream
from torchship.serve.settings import Settings
from torchship.serve.system.body_memory import hold_of
from torchship.serve.telemetry.records import SCOPE_KEY, Record

Handler = Callable[..., Awaitable[Response]]

LENGTH = struct.Struct("<I")

BYTES_IN: dict[str, Any] = {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}
BYTES_OUT = {"description": "safetensors, a tensor for each input of the state", **BYTES_IN}


class SequenceRoute(APIRoute):
    """A route whose `{id}` is any text, as in an inference request: `/` and line ends too.

    Starlette's own `{id:path}` ends before a line end, and so would reach another sequence.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **said: Any) -> None:
        super().__init__(path, endpoint, **said)
        before, after = (re.escape(part) for part in path.split("{id}"))
        before = before.replace(re.escape("{model}"), "(?P<model>[^/]+)")
        self.path_regex = re.compile(rf"^{before}(?P<id>(?s:.*)){after}\Z")


def add_sequence_routes(
    app: FastAPI, sequences: Sequences, settings: Settings, codec: LargeJsonCodec
) -> None:
    """Add the routes to an application that turns errors into responses."""
    max_body_bytes = settings.max_body_bytes
    sequence = "/v2/models/{model}/sequences/{id}"
    state = sequence + "/state"

    @app.get("/v2/sequences", responses=answers(SequenceCount, 503))
    async def count() -> Response:
        counted = {"live": await sequences.live(), "most": sequences.most}
        return Response(orjson.dumps(counted), media_type="application/json")

    @_route(
        *(app, "GET", state),
        response_class=Response,
        responses={200: BYTES_OUT, **errors(404, 410, 503)},
    )
    async def export_state(model: str, id: str) -> Response:
        data = await sequences.export(model, id)
        return Response(data, media_type=OCTETS)

    @_route(
        *(app, "PUT", state),
        status_code=204,
        responses=errors(400, 404, 410, 413, 429, 503),
        openapi_extra={"requestBody": {"required": True, **BYTES_IN}},
    )
    async def import_state(model: str, id: str, request: Request) -> Response:
        headers = dict(request.scope["headers"])
        hold = hold_of(request.scope)
        body = await read_body(headers, request.receive, max_body_bytes, hold)
        await sequences.put(model, id, bytes(body))
        return Response(status_code=204)

    @_route(app, "POST", sequence + "/reset", status_code=204, responses=errors(404, 410, 503))
    async def reset_state(model: str, id: str) -> Response:
        await sequences.reset(model, id)
        return Response(status_code=204)

    @_route(app, "DELETE", sequence, status_code=204, responses=errors(404, 410, 503))
    async def end_sequence(model: str, id: str) -> Response:
        await sequences.end(model, id)
        return Response(status_code=204)

    @app.websocket("/v2/models/{model}/stream")
    @app.websocket("/v2/models/{model}/versions/{version}/stream")
    async def stream(socket: WebSocket, model: str, version: str | None = None) -> None:
        async with AsyncExitStack() as stack:
            try:
                steps = await stack.enter_async_context(sequences.stream(model, version))
            except Exception as error:
                await socket.send_denial_response(answer(error, socket.scope.get(SCOPE_KEY)))
                return
            offered = socket.scope.get("subprotocols", ())
            await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
            with suppress(WebSocketDisconnect):
                await _Stream(socket, steps, settings.max_tensor_bytes, codec).serve()

    @app.websocket("/{path:path}")
    async def no_stream(socket: WebSocket, path: str) -> None:
        error = error_response(404, f"WebSocket {short('/' + path)}: not found")
        await socket.send_denial_response(error)


def _route(app: FastAPI, verb: str, path: str, **said: Any) -> Callable[[Handler], Handler]:
    """Return a decorator that adds a route of a sequence."""

    def add(handler: Handler) -> Handler:
        app.router.add_api_route(
            path, handler, methods=[verb], route_class_override=SequenceRoute, **said
        )
        return handler

    return add


class _Stream:
    """One WebSocket: a message in, a message out."""

    def __init__(
        self,
        socket: WebSocket,
        steps: Stream,
        max_tensor_bytes: int | None,
        codec: LargeJsonCodec,
    ) -> None:
        self._codec = codec
        self._socket = socket
        self._steps = steps
        self._max_tensor_bytes = max_tensor_bytes
        self._account = account_of(socket)
        self._admit: Callable[[], object] = socket.scope.get(ADMIT_KEY) or (lambda: None)

    async def serve(self) -> None:
        """Answer messages until the client leaves."""
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            with self._account.message() as record:
                record.model, record.version = self._steps.key.model, self._steps.on_version
                record.decode_started = record.started
                try:
                    reply = await self._step(message, record)
                    record.status = 200
                except Exception as error:
                    refusal = answer(error, record)
                    reply = {"text": bytes(refusal.body).decode()}
                    record.status = refusal.status_code
                await self._socket.send({"type": "websocket.send", **reply})

    async def _step(self, message: Message, record: Record) -> dict[str, str | bytes]:
        self._admit()
        binary = message.get("bytes")
        if binary is None:
            request = await self._codec.decode(message["text"].encode())
        else:
            request = await self._codec.decode(*_split(binary))
        if self._max_tensor_bytes is not None:
            check_sizes(request.inputs, self._max_tensor_bytes)
        record.decoded = time.perf_counter()
        content, length = await self._steps.step(request, self._account.gone, record)
        as_text = binary is None and length is None
        reply = content.decode() if as_text else _binary((content, length))
        record.encoded = time.perf_counter()
        return {"text" if as_text else "bytes": reply}


def _split(message: bytes) -> tuple[bytes, str]:
    if len(message) < LENGTH.size:
        raise RequestError(
            f"a binary message: expected {LENGTH.size} bytes with the length of the JSON first, "
            f"got {len(message)}"
        )
    return message[LENGTH.size :], str(LENGTH.unpack_from(message)[0])


def _binary(body: Body) -> bytes:
    content, length = body
    return LENGTH.pack(len(content) if length is None else length) + content

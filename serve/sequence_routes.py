"""Routes for sequences: their state over HTTP, and the WebSocket that steps one.

A message of the stream is an inference request as the protocol has it: as text, its JSON; as
binary, with tensors after it, `[length of the JSON: uint32, little-endian][JSON][tensor bytes]`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import orjson
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from starlette.requests import Request
from starlette.responses import Response

from torchship.serve import protocol
from torchship.serve.errors import RequestError
from torchship.serve.infer import read_body
from torchship.serve.openapi import OCTETS, answers
from torchship.serve.schemas import Error, SequenceCount
from torchship.serve.sequences import Body, Sequences, Stream

Answer = Callable[[Exception], Response]

LENGTH = struct.Struct("<I")

BYTES_IN: dict[str, Any] = {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}
BYTES_OUT = {"description": "safetensors, a tensor for each input of the state", **BYTES_IN}


def add_sequence_routes(
    app: FastAPI, sequences: Sequences, max_body_bytes: int, answer: Answer
) -> None:
    """Add the routes; `answer` says what a client is told of an error."""
    state = "/v2/models/{model}/sequences/{id}/state"

    @app.get("/v2/sequences", responses=answers(SequenceCount, 503))
    async def count() -> Response:
        counted = {"live": await sequences.live(), "most": sequences.most}
        return Response(orjson.dumps(counted), media_type="application/json")

    @app.get(state, response_class=Response, responses={200: BYTES_OUT, **_errors(404, 410, 503)})
    async def export_state(model: str, id: str) -> Response:
        data = await sequences.export(model, id)
        return Response(data, media_type=OCTETS)

    @app.put(
        state,
        status_code=204,
        responses=_errors(400, 404, 413, 429, 503),
        openapi_extra={"requestBody": {"required": True, **BYTES_IN}},
    )
    async def import_state(model: str, id: str, request: Request) -> Response:
        headers = dict(request.scope["headers"])
        await sequences.put(model, id, await read_body(headers, request.receive, max_body_bytes))
        return Response(status_code=204)

    @app.post(
        "/v2/models/{model}/sequences/{id}/reset",
        status_code=204,
        responses=_errors(404, 410, 503),
    )
    async def reset_state(model: str, id: str) -> Response:
        await sequences.reset(model, id)
        return Response(status_code=204)

    @app.delete(
        "/v2/models/{model}/sequences/{id}", status_code=204, responses=_errors(404, 410, 503)
    )
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
                await socket.send_denial_response(answer(error))
                return
            await socket.accept()
            with suppress(WebSocketDisconnect):
                await _serve(socket, steps, answer)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return a route's `responses` when things go wrong."""
    return {k: v for k, v in answers(Error, *statuses).items() if k != 200}


async def _serve(socket: WebSocket, steps: Stream, answer: Answer) -> None:
    """Answer messages, one for each, until the client leaves."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return
        binary = message.get("bytes")
        try:
            if binary is None:
                request = protocol.decode_request(message["text"].encode())
            else:
                request = _read_binary(binary)
            content, length = await steps.step(request)
        except Exception as error:
            await socket.send_text(bytes(answer(error).body).decode())
            continue
        if binary is None and length is None:
            await socket.send_text(content.decode())
        else:
            await socket.send_bytes(_binary((content, length)))


def _read_binary(message: bytes) -> protocol.InferRequest:
    if len(message) < LENGTH.size:
        raise RequestError(
            f"a binary message: expected {LENGTH.size} bytes with the length of the JSON first, "
            f"got {len(message)}"
        )
    length = LENGTH.unpack_from(message)[0]
    return protocol.decode_request(message[LENGTH.size :], str(length))


def _binary(body: Body) -> bytes:
    content, length = body
    return LENGTH.pack(len(content) if length is None else length) + content

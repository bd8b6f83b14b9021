"""The methods of our gRPC service as a replica has them for Ray's gRPC proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message

from torchship.serve.errors import BodyTooLargeError
from torchship.serve.grpc.servicer import InferenceServicer
from torchship.serve.ray.grpc_proxy import METHODS, STREAMED
from torchship.serve.service.failures import failure_of


class RayContext:
    """Ray's context of a call as our servicer wants it; see `CallContext`.

    Ray does not tell a replica the deadline of a call. The proxy does end a call at its deadline,
    and the replica's work for it with it.
    """

    def __init__(self, context: Any) -> None:
        self._context = context

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """Return what the client sent beside its message."""
        found: Iterable[tuple[str, str | bytes]] = self._context.invocation_metadata()
        return found

    def peer(self) -> str:
        """Return the client's address."""
        return str(self._context.peer())

    def time_remaining(self) -> float | None:
        """Return None: the deadline is not known."""
        return None

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...], /) -> None:
        """Set what the client gets beside the status."""
        self._context.set_trailing_metadata(list(metadata))

    async def abort(self, code: grpc.StatusCode, details: str, /) -> NoReturn:
        """End the call with a status."""
        self._context.set_code(code)
        self._context.set_details(details)
        raise AbortedCall(details)


class AbortedCall(Exception):
    """A call that ended with the status in its context."""


class GrpcMethods:
    """A method for each of the service; Ray calls the one that the client called."""

    _servicer: InferenceServicer
    _max_message_bytes: int

    async def _unary(self, name: str, request: bytes, context: Any) -> Message:
        ours = RayContext(context)
        if len(request) > self._max_message_bytes:
            failure = failure_of(
                BodyTooLargeError(
                    f"the message is too large: expected at most {self._max_message_bytes} bytes"
                )
            )
            await ours.abort(grpc.StatusCode[failure.status.grpc], failure.message)
        answer: Message = await getattr(self._servicer, name)(request, ours)
        return answer

    async def _stream(
        self, name: str, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[Message]:
        async for answer in getattr(self._servicer, name)(requests, RayContext(context)):
            yield answer


def _unary_method(name: str) -> Callable[..., Any]:
    async def method(self: GrpcMethods, request: bytes, grpc_context: Any) -> Message:
        return await self._unary(name, request, grpc_context)

    return method


def _stream_method(name: str) -> Callable[..., Any]:
    async def method(
        self: GrpcMethods, request_stream: AsyncIterator[bytes], grpc_context: Any
    ) -> AsyncIterator[Message]:
        async for answer in self._stream(name, request_stream, grpc_context):
            yield answer

    return method


for _name in METHODS:
    _method = (_stream_method if _name in STREAMED else _unary_method)(_name)
    _method.__name__ = _name
    setattr(GrpcMethods, _name, _method)

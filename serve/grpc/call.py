"""One call of a gRPC method: what is known of it, and how it ends with an error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NoReturn, Protocol
from urllib.parse import quote, unquote

import grpc

from torchship.serve.service.accounting import REQUEST_ID
from torchship.serve.service.failures import Failure
from torchship.serve.telemetry.records import Record

SERVICE = "inference.GRPCInferenceService"

LONGEST_MESSAGE = 2048
"""Bytes of an error's message as it is sent; header fields of a few thousand are refused."""

Headers = list[tuple[bytes, bytes]]


class CallContext(Protocol):
    """The part of `grpc.aio.ServicerContext` that is used."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Return what the client sent beside its message."""

    def peer(self) -> str:
        """Return the client's address, such as `ipv4:127.0.0.1:4711`."""

    def time_remaining(self) -> float | None:
        """Return the seconds until the client's deadline; None if there is none."""

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...], /) -> None:
        """Set what the client gets beside the status."""

    async def abort(self, code: grpc.StatusCode, details: str, /) -> NoReturn:
        """End the call with a status."""


@dataclass(slots=True)
class Call:
    """One call: what the client sent beside its message, who it is, and the call's record."""

    method: str
    context: CallContext
    headers: Headers
    client: tuple[str, int] | None
    record: Record
    admit: Callable[[], object] = field(default=lambda: None)
    """What each message of a stream is to call: it raises if the client's key is not to pass."""

    @property
    def scope(self) -> dict[str, object]:
        """The call as the accounts have an HTTP request."""
        path = f"/{SERVICE}/{self.method}"
        fields = {"type": "grpc", "method": "GRPC", "path": path}
        return {**fields, "headers": self.headers, "client": self.client}

    def late(self) -> bool:
        """Return whether the client's deadline has passed."""
        remaining = self.context.time_remaining()
        return remaining is not None and remaining <= 0


def headers_of(context: CallContext) -> Headers:
    """Return the metadata of a call as header fields, as ASGI has them."""
    return [
        (key.lower().encode(), value.encode() if isinstance(value, str) else value)
        for key, value in context.invocation_metadata() or ()
    ]


def client_of(peer: str) -> tuple[str, int] | None:
    """Return the address and port of a peer; None for one that has none."""
    kind, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not (port.isascii() and port.isdigit()):
        return None
    return host.strip("[]"), int(port)


async def fail(context: CallContext, failure: Failure, request_id: bytes) -> NoReturn:
    """End a call with an error."""
    metadata = [(REQUEST_ID.decode(), request_id.decode("ascii"))]
    if failure.retry_after is not None:
        metadata.append(("retry-after", str(failure.retry_after)))
    context.set_trailing_metadata(tuple(metadata))
    await context.abort(grpc.StatusCode[failure.status.grpc], details(failure.message))


def details(message: str) -> str:
    """Return a message cut to what a header field can carry, where gRPC writes it as in a URL."""
    message = message.encode("utf-8", "replace").decode()
    if len(quote(message)) <= LONGEST_MESSAGE:
        return message
    size = 0
    for place, character in enumerate(message):
        size += len(quote(character))
        if size > LONGEST_MESSAGE - 3:
            return message[:place] + "..."
    return message

"""The bodies of requests: read within the limits on their size and on the memory for all."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from torchship.serve.errors import BodyTooLargeError
from torchship.serve.protocol.drafts import LARGE_JSON
from torchship.serve.system.body_memory import BodyHold, hold_of

DIGITS = 20  # of the largest number of 64 bits


def announced_length(value: bytes) -> int:
    """Return the number in a `Content-Length` that the parser has accepted.

    It is below 2^64 then, and whatever stands before its last digits is zeros.
    """
    return int(value[-DIGITS:])


async def read_body(
    headers: Mapping[bytes, bytes], receive: Receive, limit: int, hold: BodyHold | None = None
) -> bytes | bytearray:
    """Return the request's body, of at most `limit` bytes.

    `hold` is the memory that the request holds already; without one there is no limit for all.

    Raises:
        BodyTooLargeError: as soon as more was announced or has come.
        OverloadError: as soon as more was announced or has come than there is room for.
        ClientDisconnect: the client left before the end.
    """
    hold = hold or hold_of({})
    announced = headers.get(b"content-length", b"")
    length = announced_length(announced) if announced.isdigit() else 0
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

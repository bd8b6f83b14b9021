"""What the application needs to know of a client's connection, and ASGI does not say.

With uvicorn `receive` is a method of the request's cycle; with another server nothing is known.
"""

from __future__ import annotations

from starlette.types import Receive
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from torchship.serve.http.body import announced_length
from torchship.serve.service.accounting import CLIENT_LEFT

LEFT_OVER = 1 << 20
"""Bytes of a body that are read after its answer, so that the connection can go on."""


def end_early(receive: Receive) -> None:
    """Close the connection after the answer that begins now, if too much of the body is unread.

    It closes as well if the body may never come: a client that waits for `100 Continue` and gets
    another answer may leave it out (RFC 9110, 10.1.1).
    """
    cycle = getattr(receive, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or not cycle.more_body:
        return
    length = next((v for n, v in cycle.scope["headers"] if n == b"content-length"), b"")
    if cycle.waiting_for_100_continue or not length or announced_length(length) > LEFT_OVER:
        cycle.keep_alive = False


def has_left(receive: Receive) -> bool:
    """Return whether the client has left, where uvicorn tells."""
    return getattr(getattr(receive, "__self__", None), "disconnected", False)


def left_with(receive: Receive) -> int:
    """Return the status of a request that ended before the application answered; 0 if it has not.

    That is 499 if the client left, and otherwise what the connection itself answered.
    """
    if not has_left(receive):
        return 0
    return getattr(getattr(receive, "__self__", None), "refused", CLIENT_LEFT)

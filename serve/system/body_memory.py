"""A limit for the bytes of request bodies that one process holds in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchship.serve.errors import OverloadError

HOLD_KEY = "torchship.hold"
"""The key of a request's `BodyHold` in its ASGI scope."""


class BodyMemory:
    """Counts the bytes that all requests of a process hold; used from the event loop only."""

    __slots__ = ("held", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def check(self, more: int = 0) -> None:
        """Refuse a request that needs `more` bytes if they would exceed the limit.

        Raises:
            OverloadError: they would.
        """
        if self.held + more > self.most:
            raise OverloadError(
                f"the server holds {self.held} bytes of other requests: expected no more than "
                f"{self.most} bytes with this one, try again later"
            )


class BodyHold:
    """The bytes that one request holds; its creator must release it, however the request ends."""

    __slots__ = ("inflight", "size")

    def __init__(self, inflight: BodyMemory) -> None:
        self.inflight = inflight
        self.size = 0

    def add(self, size: int) -> None:
        """Hold `size` bytes more, or fewer if `size` is negative."""
        self.size += size
        self.inflight.held += size

    def grow(self, size: int) -> None:
        """Hold `size` bytes more if they fit into the limit.

        Raises:
            OverloadError: they do not.
        """
        self.inflight.check(size)
        self.add(size)

    def release(self) -> None:
        """Stop counting the bytes of this request."""
        self.inflight.held -= self.size
        self.size = 0


def hold_of(scope: Mapping[str, Any]) -> BodyHold:
    """Return a request's hold; one without a limit if our connection class did not make one."""
    hold: BodyHold | None = scope.get(HOLD_KEY)
    return BodyHold(BodyMemory(1 << 62)) if hold is None else hold

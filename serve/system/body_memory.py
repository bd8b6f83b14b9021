"""The memory of requests: how many bytes of their bodies the process holds, and how many it may."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchship.serve.errors import OverloadError

HOLD_KEY = "torchship.hold"
"""Where a request's ASGI scope has what it holds."""


class BodyMemory:
    """The bytes that all requests of a process hold now; used from its event loop only."""

    __slots__ = ("held", "most")

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def check(self, more: int = 0) -> None:
        """Refuse a request that would need `more` bytes than are held now.

        Raises:
            OverloadError: there is no room for them.
        """
        if self.held + more > self.most:
            raise OverloadError(
                f"the server holds {self.held} bytes of other requests: expected no more than "
                f"{self.most} bytes with this one, try again later"
            )


class BodyHold:
    """The bytes that one request holds; who makes it releases it, however the request ends."""

    __slots__ = ("inflight", "size")

    def __init__(self, inflight: BodyMemory) -> None:
        self.inflight = inflight
        self.size = 0

    def add(self, size: int) -> None:
        """Hold `size` bytes more, or fewer if it is below 0."""
        self.size += size
        self.inflight.held += size

    def grow(self, size: int) -> None:
        """Hold `size` bytes more if there is room for them.

        Raises:
            OverloadError: there is none.
        """
        self.inflight.check(size)
        self.add(size)

    def release(self) -> None:
        """Hold nothing any more."""
        self.inflight.held -= self.size
        self.size = 0


def hold_of(scope: Mapping[str, Any]) -> BodyHold:
    """Return what a request holds; without a limit where the connection is not ours."""
    hold: BodyHold | None = scope.get(HOLD_KEY)
    return BodyHold(BodyMemory(1 << 62)) if hold is None else hold

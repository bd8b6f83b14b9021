"""Something that is held while it is used, and closed when nobody holds it any more."""

from __future__ import annotations

import asyncio
from typing import TypeVar

H = TypeVar("H", bound="ReferenceCounted")


class ReferenceCounted:
    """What `with` holds; used from one event loop."""

    def __init__(self) -> None:
        self._holders = 0
        self._free: asyncio.Future[None] | None = None

    def __enter__(self: H) -> H:
        """Hold it: until the calls made with it are answered."""
        self._holders += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Let it go."""
        self._holders -= 1
        if not self._holders and self._free is not None and not self._free.done():
            self._free.set_result(None)

    async def free(self) -> None:
        """Return when nobody holds it."""
        if self._holders:
            self._free = asyncio.get_running_loop().create_future()
            await self._free

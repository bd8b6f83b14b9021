"""An object that counts its users, so that it can be closed when nobody uses it any more."""

from __future__ import annotations

import asyncio
from typing import TypeVar

H = TypeVar("H", bound="ReferenceCounted")


class ReferenceCounted:
    """An object that is held by `with` while it is used; all users are on one event loop."""

    def __init__(self) -> None:
        self._holders = 0
        self._released: asyncio.Event | None = None  # while somebody waits for it

    def __enter__(self: H) -> H:
        """Hold it, until the calls that are made with it are answered."""
        self._holders += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self._holders -= 1
        if not self._holders and self._released is not None:
            self._released.set()

    async def free(self) -> None:
        """Return when nobody holds it."""
        while self._holders:
            if self._released is None or self._released.is_set():
                self._released = asyncio.Event()
            await self._released.wait()

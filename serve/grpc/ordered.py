"""The messages of a stream: several answered at a time, their answers given in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Hashable
from contextlib import suppress
from typing import Any, Generic, TypeVar

Asked = TypeVar("Asked")
Told = TypeVar("Told")

Start = Callable[[Asked], tuple[Hashable, Coroutine[Any, Any, Told]]]
"""Returns what answers a message, and its sequence: messages of one that is not None take turns."""


class OrderedAnswers(Generic[Asked, Told]):
    """Reads a stream and answers it, never more than `most` messages ahead of its client.

    A client that does not read its answers is not read from either. An answer that raises ends the
    stream when its turn comes.
    """

    def __init__(
        self, messages: AsyncIterator[Asked], start: Start[Asked, Told], most: int
    ) -> None:
        self._messages = messages
        self._start = start
        self._room = asyncio.Semaphore(most)
        self._answers: asyncio.Queue[asyncio.Task[Told] | None] = asyncio.Queue()
        self._last: dict[Hashable, asyncio.Task[Told]] = {}
        self._reading: asyncio.Task[None] | None = None
        self.ended_early = False
        """Whether messages may be left that nobody reads."""

    def end(self) -> None:
        """Read no more messages; those that were read are answered."""
        self.ended_early = True
        if self._reading is not None:
            self._reading.cancel()

    async def __aiter__(self) -> AsyncIterator[Told]:
        """Yield the answers."""
        self._reading = asyncio.create_task(self._read())
        task = None
        try:
            while (task := await self._answers.get()) is not None:
                yield await task
                self._room.release()
            with suppress(asyncio.CancelledError):
                await self._reading  # raises what reading raised
        finally:
            self._reading.cancel()
            while task is not None:
                task.cancel()
                task = None if self._answers.empty() else self._answers.get_nowait()

    async def _read(self) -> None:
        try:
            while not self.ended_early:
                await self._room.acquire()
                message = await anext(self._messages, None)
                if message is None:
                    return
                self._answers.put_nowait(self._answer(message))
        finally:
            self._answers.put_nowait(None)

    def _answer(self, message: Asked) -> asyncio.Task[Told]:
        sequence, answering = self._start(message)
        if sequence is None:
            return asyncio.create_task(answering)
        task = asyncio.create_task(_after(self._last.get(sequence), answering))
        self._last[sequence] = task

        def forget(ended: asyncio.Task[Told]) -> None:
            if self._last.get(sequence) is ended:
                del self._last[sequence]

        task.add_done_callback(forget)
        return task


async def _after(before: asyncio.Task[Told] | None, then: Coroutine[Any, Any, Told]) -> Told:
    try:
        if before is not None:
            await asyncio.wait([before])
    except BaseException:
        then.close()
        raise
    return await then

"""Answers of a stream: in order, bounded, and in turns within a sequence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Hashable
from typing import Any

import pytest

from torchship.serve.grpc.ordered import OrderedAnswers


class Source:
    """Numbers from 0 on, and how many of them were taken."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        if self.taken == self.count:
            raise StopAsyncIteration
        self.taken += 1
        return self.taken - 1


async def turn() -> None:
    """Let every other task run until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_answers_come_in_the_order_of_the_messages() -> None:
    async def main() -> list[int]:
        done = [asyncio.Event() for _ in range(4)]

        async def answer(number: int) -> int:
            if number < 3:  # each waits for the one after it
                await done[number + 1].wait()
            done[number].set()
            return number

        answers = OrderedAnswers(Source(4), lambda number: (None, answer(number)), 4)
        return [found async for found in answers]

    assert asyncio.run(main()) == [0, 1, 2, 3]


def test_a_client_that_takes_no_answers_is_not_read_from() -> None:
    async def main() -> None:
        source = Source(100)

        async def answer(number: int) -> int:
            return number

        stream = aiter(OrderedAnswers(source, lambda number: (None, answer(number)), 5))
        assert await anext(stream) == 0
        await turn()
        assert source.taken == 5
        assert await anext(stream) == 1
        await turn()
        assert source.taken == 6
        await stream.aclose()  # type: ignore[attr-defined]
        await turn()
        assert source.taken == 6

    asyncio.run(main())


def test_messages_of_one_sequence_take_turns_and_others_do_not_wait() -> None:
    async def main() -> None:
        running: list[int] = []
        goes_on = asyncio.Event()

        async def answer(number: int) -> int:
            running.append(number)
            await goes_on.wait()
            if number == 0:
                raise ValueError("the first step fails")
            return number

        def start(number: int) -> tuple[Hashable, Coroutine[Any, Any, int]]:
            return ("even" if number % 2 == 0 else None), answer(number)

        stream = aiter(OrderedAnswers(Source(5), start, 10))
        first = asyncio.ensure_future(anext(stream))
        await turn()
        assert running == [0, 1, 3]
        goes_on.set()
        with pytest.raises(ValueError, match="the first step fails"):
            await first
        await turn()

    asyncio.run(main())


def test_an_end_lets_what_was_read_be_answered() -> None:
    async def main() -> list[int]:
        source = Source(100)
        goes_on = asyncio.Event()

        async def answer(number: int) -> int:
            await goes_on.wait()
            return number

        answers = OrderedAnswers(source, lambda number: (None, answer(number)), 3)
        found: list[int] = []

        async def read() -> None:
            async for answered in answers:
                found.append(answered)

        reading = asyncio.create_task(read())
        await turn()
        answers.end()
        goes_on.set()
        await reading
        assert answers.ended_early
        return found

    assert asyncio.run(main()) == [0, 1, 2]


def test_whoever_stops_reading_stops_the_answers() -> None:
    async def main() -> None:
        cancelled = []

        async def answer(number: int) -> int:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(number)
                raise
            return number

        answers = OrderedAnswers(Source(3), lambda number: (None, answer(number)), 8)
        reading = asyncio.ensure_future(anext(aiter(answers)))
        await turn()
        reading.cancel()
        await turn()
        assert sorted(cancelled) == [0, 1, 2]

    asyncio.run(main())

"""When an executor is asked to begin, and how often."""

import asyncio
from collections.abc import Sequence

import pytest

from torchship.serve.engine.dispatcher import Dispatcher
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.queue import Job, RequestQueue
from torchship.serve.errors import QueueFullError


class Counting:
    """An executor that takes one row at a time, and may fail."""

    runs_on_loop = True

    def __init__(self, queue: RequestQueue) -> None:
        self.queue = queue
        self.begun = 0
        self.error: BaseException | None = None
        self.done = asyncio.Event()

    def begin_batch(self) -> bool:
        self.begun += 1
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.queue.batch(1, 1)
        if not self.queue.rows:
            self.done.set()
        return self.queue.rows > 0

    def run_now(self, jobs: Sequence[Job]) -> bool:
        return False


def jobs(count: int) -> list[Job]:
    answers = [asyncio.get_running_loop().create_future() for _ in range(count)]
    return [Job("forward", {}, rows=1, kind="a", answer=answer) for answer in answers]


def made(limits: Limits) -> tuple[Dispatcher, Counting]:
    queue = RequestQueue(8, 1)
    executor = Counting(queue)
    return Dispatcher(queue, limits, executor), executor


def test_the_jobs_of_one_turn_wake_the_executor_once_and_others_have_turns_between() -> None:
    async def check() -> None:
        dispatcher, executor = made(Limits())
        assert dispatcher.idle
        dispatcher.put(jobs(1))
        dispatcher.put(jobs(2))
        assert (dispatcher.waiting_rows, dispatcher.idle, executor.begun) == (3, False, 0)
        for begun in (1, 2, 3, 3):
            await asyncio.sleep(0)
            assert executor.begun == begun
        assert dispatcher.idle

    asyncio.run(check())


def test_an_executor_that_raises_is_asked_again_for_those_that_wait() -> None:
    async def check() -> None:
        said: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
        dispatcher, executor = made(Limits())
        executor.error = OSError("once")
        dispatcher.put(jobs(1))
        await asyncio.wait_for(executor.done.wait(), 60)
        assert executor.begun == 2
        assert len(said) == 1

    asyncio.run(check())


def test_rows_wait_for_others_until_a_batch_is_full() -> None:
    async def check() -> None:
        dispatcher, executor = made(Limits(max_batch=3, delay_seconds=3600))
        assert not dispatcher.idle
        dispatcher.put(jobs(2))
        for _ in range(3):
            await asyncio.sleep(0)
        assert executor.begun == 0
        dispatcher.put(jobs(1))
        await asyncio.wait_for(executor.done.wait(), 60)

    asyncio.run(check())


def test_rows_wait_for_their_companions_and_for_no_more() -> None:
    async def check() -> None:
        dispatcher, executor = made(Limits())
        dispatcher.put(jobs(1), companions=3)
        dispatcher.put(jobs(1), companions=3)
        for _ in range(3):
            await asyncio.sleep(0)
        assert (executor.begun, dispatcher.idle) == (0, False)
        dispatcher.put(jobs(1), companions=3)
        await asyncio.sleep(0)
        assert executor.begun == 1

    asyncio.run(check())


def test_companions_that_do_not_come_are_waited_for_only_a_little() -> None:
    async def check() -> None:
        dispatcher, executor = made(Limits())
        dispatcher.put(jobs(1), companions=3)
        await asyncio.wait_for(executor.done.wait(), 60)

    asyncio.run(check())


def test_a_request_without_companions_ends_the_wait() -> None:
    async def check() -> None:
        dispatcher, executor = made(Limits())
        dispatcher.put(jobs(1), companions=3)
        dispatcher.put(jobs(1))
        await asyncio.sleep(0)
        assert executor.begun == 1

    asyncio.run(check())


def test_a_thread_begins_at_once() -> None:
    async def check() -> None:
        dispatcher, executor = made(Limits())
        executor.runs_on_loop = False
        dispatcher.put(jobs(1), companions=3)
        await asyncio.sleep(0)
        assert executor.begun == 1

    asyncio.run(check())


def test_a_full_queue_does_not_wake_the_thread() -> None:
    async def check() -> None:
        dispatcher, executor = made(Limits())
        dispatcher.put(jobs(8))
        await asyncio.wait_for(executor.done.wait(), 60)
        dispatcher.put(jobs(1))
        with pytest.raises(QueueFullError):
            dispatcher.put(jobs(8))
        await asyncio.sleep(0)
        assert executor.begun == 9

    asyncio.run(check())

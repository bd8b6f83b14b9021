import asyncio
import threading
import time
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchship.serve.engine.queue import Job, RequestQueue
from torchship.serve.errors import QueueFullError
from torchship.serve.protocol.tensors import RawTensor, pack

LOOP = asyncio.new_event_loop()  # for futures that nobody waits for
LOOP.close()

BYTES = 1000


def job(rows: int = 1, kind: str | None = "a", method: str = "forward", priority: int = 2) -> Job:
    done: asyncio.Future[Mapping[str, RawTensor]] = asyncio.Future(loop=LOOP)
    return Job(method, {"x": pack(torch.zeros(rows))}, rows, kind, done, priority=priority)


def test_those_of_one_kind_come_together_in_their_order() -> None:
    waiting = RequestQueue(100, BYTES)
    first, other, second = job(), job(kind="b"), job()
    act, third = job(method="act"), job(2)
    waiting.put([first, other, second, act, third])
    assert waiting.take(64, BYTES) == [first, second, third]
    assert waiting.take(64, BYTES) == [other]
    assert waiting.take(64, BYTES) == [act]
    assert waiting.rows == 0


def test_jobs_without_a_kind_come_alone() -> None:
    waiting = RequestQueue(100, BYTES)
    jobs = [job(kind=None), job(kind=None)]
    waiting.put(jobs)
    assert waiting.take(64, BYTES) == jobs[:1]
    assert waiting.take(64, BYTES) == jobs[1:]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.integers(5, 12))
def test_batches_keep_to_their_limit_and_lose_no_job(sizes: list[int], most: int) -> None:
    waiting = RequestQueue(1000, BYTES)
    jobs = [job(rows) for rows in sizes]
    waiting.put(jobs)
    taken = []
    while waiting.rows:
        batch = waiting.take(most, BYTES)
        assert batch is not None
        assert sum(one.rows for one in batch) <= most
        taken += batch
    assert sorted(map(id, taken)) == sorted(map(id, jobs))


def test_the_first_priority_is_served_first_and_shares_its_batch() -> None:
    waiting = RequestQueue(100, BYTES)
    late, other, urgent = job(priority=2), job(kind="b", priority=2), job(priority=1)
    waiting.put([other, late])
    waiting.put([urgent])
    assert waiting.take(64, BYTES) == [urgent, late]
    assert waiting.take(64, BYTES) == [other]


def test_a_full_queue_refuses_with_both_figures() -> None:
    waiting = RequestQueue(5, BYTES)
    waiting.put([job(4)])
    with pytest.raises(QueueFullError, match="4 rows wait, 2 more would be over the limit of 5"):
        waiting.put([job(2)])
    waiting.put([job(1)])
    with pytest.raises(QueueFullError):
        waiting.put([job(0)])
    waiting.take(64, BYTES)
    waiting.put([job(50)])  # larger than the limit, and nothing else waits
    with pytest.raises(QueueFullError):
        waiting.put([job(1)])


def test_of_jobs_that_come_together_all_wait_or_none() -> None:
    waiting = RequestQueue(5, BYTES)
    waiting.put([job(1)])
    with pytest.raises(QueueFullError):
        waiting.put([job(2), job(3)])
    assert waiting.rows == 1


def test_an_idle_engine_is_woken_and_a_closed_one_ends() -> None:
    waiting = RequestQueue(5, BYTES)
    taken: list[list[Job] | None] = []
    got = threading.Semaphore(0)

    def work() -> None:
        while True:
            taken.append(waiting.take(64, BYTES))
            got.release()
            if taken[-1] is None:
                return

    thread = threading.Thread(target=work)
    thread.start()
    one = job()
    waiting.put([one])
    waiting.wake()
    assert got.acquire(timeout=30)
    assert taken == [[one]]
    assert waiting.close() == []
    thread.join(30)
    assert taken == [[one], None]


def test_closing_gives_back_those_that_waited() -> None:
    waiting = RequestQueue(5, BYTES)
    jobs = [job(priority=2), job(priority=1)]
    waiting.put(jobs)
    assert set(map(id, waiting.close())) == set(map(id, jobs))
    assert waiting.take(64, BYTES) is None
    assert waiting.rows == 0


def test_a_deadline_passes() -> None:
    assert not job().expired()
    early = job()
    early.deadline = time.monotonic() + 1000
    assert not early.expired()
    early.deadline = time.monotonic() - 1
    assert early.expired()


def test_a_batch_has_no_more_bytes_than_allowed_unless_a_single_job_has() -> None:
    waiting = RequestQueue(100, BYTES)
    jobs = [job() for _ in range(6)]
    for one, nbytes in zip(jobs, (30, 50, 30, 200, 20, 90), strict=True):
        one.nbytes = nbytes
    waiting.put(jobs)
    batches = [waiting.batch(64, 100) for _ in range(4)]
    assert [[one.nbytes for one in batch] for batch in batches] == [[30, 50, 20], [30], [200], [90]]
    assert waiting.batch(64, 100) == []


def test_a_queue_is_bounded_in_bytes_too() -> None:
    waiting = RequestQueue(100, 50)
    large, small = job(), job()
    large.nbytes, small.nbytes = 80, 1
    waiting.put([large])  # larger than the limit, and nothing else waits
    with pytest.raises(QueueFullError, match="80 bytes wait, 1 more would be over the limit of 50"):
        waiting.put([small])
    waiting.batch(64, BYTES)
    waiting.put([small])
    waiting.close()
    assert waiting.rows == 0


def test_a_job_without_rows_counts_as_one_wherever_rows_are_counted() -> None:
    waiting = RequestQueue(100, BYTES)
    waiting.put([job(0), job(1), job(0), job(1)])
    assert waiting.rows == 4
    assert len(waiting.batch(3, BYTES)) == 3
    assert waiting.rows == 1

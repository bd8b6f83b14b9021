"""Every job of a batch is told what became of it, whatever those who are told do then."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from engine_calls import call_engine
from programs import Loader
from torchship.script.runtime.archive import open_archive
from torchship.serve.engine.delivery import deliver
from torchship.serve.engine.engine import Engine
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.queue import Job
from torchship.serve.errors import NotReadyError, OutOfServiceError
from torchship.serve.protocol.tensors import RawTensor, pack
from torchship.serve.telemetry.records import BatchReport

MakeArchive = Callable[..., Path]
QUICK = pytest.mark.parametrize("inline_threshold_seconds", [0.0, 10.0], ids=["thread", "loop"])


class Waiter:
    """Waits for outputs as a connection does, and may fail in each of its methods."""

    def __init__(self, fails_in: str = "", error: type[BaseException] = OSError) -> None:
        self.fails_in = fails_in
        self.error = error
        self.told: list[object] = []

    def _at(self, place: str) -> None:
        if place == self.fails_in:
            raise self.error(f"no room in {place}")

    def done(self) -> bool:
        self._at("done")
        return bool(self.told)

    def cancelled(self) -> bool:
        self._at("cancelled")
        return False

    def gone(self) -> bool:
        self._at("gone")
        return False

    def set_result(self, outputs: Mapping[str, RawTensor]) -> None:
        self._at("set_result")
        self.told.append(outputs["y"].tensor().item())

    def set_exception(self, error: Exception) -> None:
        self.told.append(error)


def disk_full(report: BatchReport) -> None:
    raise OSError("no space left on device")


@asynccontextmanager
async def started(
    path: Path,
    inline_threshold_seconds: float,
    observer: Callable[[BatchReport], None] | None = None,
) -> AsyncIterator[Engine]:
    engine = Engine(
        open_archive(path),
        Limits(max_batch=8, inline_threshold_seconds=inline_threshold_seconds),
        observer,
    )
    await engine.start()
    yield engine
    await engine.retire()


def enter(engine: Engine, values: list[float], waiters: list[Waiter]) -> None:
    for value, waiter in zip(values, waiters, strict=True):
        row = {"x": pack(torch.full((1, 1), value))}
        assert engine.enter("forward", row, waiter, gone=waiter.gone)


@QUICK
@pytest.mark.parametrize("place", ["done", "cancelled", "gone", "set_result"])
@pytest.mark.parametrize("error", [OSError, StopIteration, asyncio.CancelledError])
def test_an_answer_that_raises_does_not_keep_others_from_their_answers(
    make_archive: MakeArchive,
    caplog: pytest.LogCaptureFixture,
    inline_threshold_seconds: float,
    place: str,
    error: type[BaseException],
) -> None:
    waiters = [Waiter(), Waiter(place, error), Waiter(), Waiter()]

    async def ask() -> float:
        async with started(make_archive("picky"), inline_threshold_seconds) as engine:
            enter(engine, [1.0, 2.0, 1000.0, 4.0], waiters)
            # What comes later is answered too: nothing has stopped.
            later = await asyncio.wait_for(
                call_engine(engine, "forward", {"x": torch.ones(1, 1)}), 60
            )
            return later["y"].item()

    assert asyncio.run(ask()) == 2.0
    assert waiters[0].told == [2.0]
    assert "over 100" in str(waiters[2].told)
    assert waiters[3].told == [8.0]
    if place in ("gone", "cancelled", "set_result"):
        expected = error if issubclass(error, Exception) else RuntimeError
        assert [type(told) for told in waiters[1].told] == [expected]
    assert caplog.text.count(f"no room in {place}") == 1 or place == "done"


@QUICK
def test_an_observer_that_raises_is_logged_once_and_every_job_is_answered(
    make_archive: MakeArchive, caplog: pytest.LogCaptureFixture, inline_threshold_seconds: float
) -> None:
    waiters = [Waiter() for _ in range(6)]

    async def ask() -> None:
        async with started(make_archive("picky"), inline_threshold_seconds, disk_full) as engine:
            for waiter in waiters:
                enter(engine, [3.0], [waiter])
                await asyncio.wait_for(call_engine(engine, "forward", {"x": torch.ones(1, 1)}), 60)

    asyncio.run(ask())
    assert [waiter.told for waiter in waiters] == [[6.0]] * 6
    assert caplog.text.count("OSError: no space left on device") == 1


class Interrupted(nn.Module):
    """Is interrupted, as by Ctrl+C, while it runs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt


def test_jobs_whose_call_is_interrupted_on_the_event_loop_get_an_error(
    make_archive: MakeArchive,
) -> None:
    waiters = [Waiter() for _ in range(3)]
    loader = Loader()

    async def ask() -> None:
        engine = Engine(
            open_archive(make_archive("picky")),
            Limits(max_batch=2, inline_threshold_seconds=10),
            load=loader.load,
        )
        await engine.start()
        loader.instead = Interrupted()
        enter(engine, [1.0, 2.0, 3.0], waiters)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            engine.close()

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(ask())
    told = [str(told) for waiter in waiters[:2] for told in waiter.told]
    assert told == ["its call was ended by KeyboardInterrupt"] * 2


def test_the_rest_of_a_batch_is_answered_when_one_answer_ends_the_process() -> None:
    waiters = [
        Waiter(),
        Waiter("set_result", KeyboardInterrupt),
        Waiter(),
        Waiter("done", SystemExit),
    ]
    waiters.append(Waiter())
    jobs = [Job(method="forward", inputs={}, rows=1, kind="a", answer=waiter) for waiter in waiters]
    outputs = {"y": pack(torch.tensor([[7.0]]))}
    with pytest.raises(SystemExit):
        deliver([(job, outputs) for job in jobs])
    assert [waiter.told for waiter in waiters] == [[7.0], [], [7.0], [], [7.0]]


def test_closing_answers_every_waiting_job(make_archive: MakeArchive) -> None:
    waiters = [Waiter("set_exception"), Waiter("done"), Waiter()]

    async def ask() -> None:
        async with started(make_archive("picky"), 0.0) as engine:
            enter(engine, [1.0, 2.0, 3.0], waiters)
            engine.close()

    asyncio.run(ask())
    for waiter in waiters:
        assert [type(told) for told in waiter.told] == [NotReadyError] or waiter.fails_in == "done"
    assert len(waiters[1].told) == 0 or waiters[1].fails_in == "done"


class Leaves(nn.Module):
    """Ends the thread that it runs in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise SystemExit("enough")


def test_a_thread_that_ends_takes_its_engine_out_of_service(make_archive: MakeArchive) -> None:
    told: list[tuple[Engine, str]] = []

    async def ask() -> tuple[Engine, list[object]]:
        loader = Loader()
        engine = Engine(
            open_archive(make_archive("picky")),
            hung=lambda *news: told.append(news),
            load=loader.load,
        )
        await engine.start()
        loader.instead = Leaves()
        calls = (call_engine(engine, "forward", {"x": torch.ones(1, 1)}) for _ in range(3))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        with pytest.raises(OutOfServiceError):
            await call_engine(engine, "forward", {"x": torch.ones(1, 1)})
        await engine.retire()
        return engine, list(answers)

    engine, answers = asyncio.run(ask())
    reason = "model 'picky' is out of service: its thread has ended: SystemExit"
    assert [(type(answer), str(answer)) for answer in answers] == [(OutOfServiceError, reason)] * 3
    assert told == [(engine, reason)]


class Stuck(nn.Module):
    """Runs until it may end."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.may_end = threading.Event()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.entered.set()
        assert self.may_end.wait(60)
        return x * 2


@pytest.mark.parametrize("closing", [False, True])
def test_a_thread_that_comes_back_from_a_call_that_took_too_long_just_ends(
    make_archive: MakeArchive, caplog: pytest.LogCaptureFixture, closing: bool
) -> None:
    stuck = Stuck()
    threads: list[threading.Thread] = []

    def failing(engine: Engine, why: str) -> None:
        raise OSError("nobody to tell")

    async def ask() -> None:
        before = set(threading.enumerate())
        limits = Limits(call_seconds=0.2)
        loader = Loader()
        engine = Engine(open_archive(make_archive("picky")), limits, hung=failing, load=loader.load)
        await engine.start()
        threads.extend(set(threading.enumerate()) - before)
        loader.instead = stuck
        calls = [
            asyncio.ensure_future(call_engine(engine, "forward", {"x": torch.ones(1, 1)}))
            for _ in range(2)
        ]
        assert await asyncio.to_thread(stuck.entered.wait, 60)
        if closing:  # whoever closes it before it is noticed does not wait for it either
            engine.close()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [OutOfServiceError] * 2
        await asyncio.wait_for(engine.retire(), 60)
        assert not engine.join()
        stuck.may_end.set()
        await asyncio.to_thread(threads[0].join, 60)
        assert engine.join()

    asyncio.run(ask())
    assert caplog.text.count("OSError: nobody to tell") == 1

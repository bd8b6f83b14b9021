"""A batch that fails is run in halves, and those who made it fail run apart for a while."""

import asyncio
import threading
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path

import pytest
import torch

from engine_calls import call_engine
from programs import Loader, Run
from torchship.script.errors import ModelError
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.serve.engine.engine import Engine
from torchship.serve.engine.failure_isolation import MOST_SOURCES, FailureIsolation
from torchship.serve.engine.limits import Limits
from torchship.serve.protocol.tensors import RawTensor, pack

MakeArchive = Callable[..., Path]
BAD = 1000.0


class Sent:
    def __init__(self, source: Hashable) -> None:
        self.source = source


def test_requests_share_batches_until_one_fails_and_again_later() -> None:
    spoilers = FailureIsolation(seconds=1000)
    good, bad, new, unknown = Sent("good"), Sent("bad"), Sent("new"), Sent(None)
    assert not spoilers.active
    spoilers.failed()
    spoilers.failed(bad)
    spoilers.succeeded([good, unknown])
    assert spoilers.active
    assert spoilers.groups([bad, good, new, unknown, good]) == [[good, good], [bad, new, unknown]]
    assert spoilers.groups([bad, new]) == [[bad, new]]
    spoilers.failed(good)
    assert spoilers.groups([bad, good]) == [[bad, good]]
    short = FailureIsolation(seconds=-1)
    short.failed()
    short.succeeded([good])
    assert short.groups([bad, good]) == [[bad, good]]
    assert not short.active


def test_what_is_remembered_of_clients_is_bounded() -> None:
    spoilers = FailureIsolation(seconds=1000)
    spoilers.failed()
    for number in range(MOST_SOURCES + 1):
        spoilers.succeeded([Sent(number)])
    jobs = [Sent(0), Sent(MOST_SOURCES)]
    assert spoilers.groups(jobs) == [jobs[1:], jobs[:1]]


class Caller:
    """Lets rows come to an engine at the same time, and counts the calls that they take.

    The engine's thread is kept busy until all have come, or it would begin with the first ones.
    """

    def __init__(self, path: Path, limits: Limits | None = None) -> None:
        self._loader = Loader()
        self.engine = Engine(open_archive(path), limits, load=self._loader.load)
        self.rows: list[int] = []
        self._loop = threading.get_ident()
        self._threaded = limits is None or not limits.inline_threshold_seconds
        self._busy = threading.Event()
        self._all_came = threading.Event()

    def _count(self, run: Run, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        self.rows.append(len(inputs["x"]))
        if not self._busy.is_set() and threading.get_ident() != self._loop:
            self._busy.set()
            assert self._all_came.wait(60)
        return run()

    async def start(self) -> None:
        """Prove the archive; count calls from now on."""
        await self.engine.start()
        self._busy.set()
        self._loader.around = self._count

    async def ask(self, sent: list[tuple[float, Hashable]]) -> list[float | str]:
        """Return what became of each value: twice the value, or the error's message."""
        loop = asyncio.get_running_loop()
        self._busy.clear()
        self._all_came.clear()
        before = asyncio.ensure_future(
            call_engine(self.engine, "forward", {"x": torch.zeros(1, 1)})
        )
        if self._threaded:
            await asyncio.to_thread(self._busy.wait)
        else:
            await before
        self.rows.clear()
        futures: list[asyncio.Future[Mapping[str, RawTensor]]] = [
            loop.create_future() for _ in sent
        ]
        for (value, source), future in zip(sent, futures, strict=True):
            row = {"x": pack(torch.full((1, 1), value))}
            assert self.engine.enter("forward", row, future, source=source)
        self._all_came.set()
        await before
        answers = await asyncio.gather(*futures, return_exceptions=True)
        return [
            str(answer) if isinstance(answer, BaseException) else answer["y"].tensor().item()
            for answer in answers
        ]


def right(answers: list[float | str], sent: list[tuple[float, Hashable]], said: str) -> bool:
    return all(
        said in str(answer) if value == BAD else answer == 2 * value
        for answer, (value, _) in zip(answers, sent, strict=True)
    )


QUICK = pytest.mark.parametrize("inline_threshold_seconds", [0.0, 10.0], ids=["thread", "loop"])


@QUICK
def test_one_bad_row_of_64_costs_a_dozen_calls_once(
    make_archive: MakeArchive, inline_threshold_seconds: float
) -> None:
    async def ask() -> None:
        limits = Limits(inline_threshold_seconds=inline_threshold_seconds)
        caller = Caller(make_archive("picky"), limits)
        await caller.start()
        sent: list[tuple[float, Hashable]] = [(float(n), f"client {n}") for n in range(64)]
        sent[37] = (BAD, "bad client")
        assert right(await caller.ask(sent), sent, "a value is over 100")
        assert len(caller.rows) == 1 + 2 * 6
        # The next time the good ones run together, and the bad one apart from them.
        assert right(await caller.ask(sent), sent, "a value is over 100")
        assert caller.rows == [63, 1]
        # One that comes from a new connection each time is no better known.
        sent[37] = (BAD, "another connection")
        assert right(await caller.ask(sent), sent, "a value is over 100")
        assert caller.rows == [63, 1]
        # Who sends good rows again is trusted again.
        sent[37] = (1.0, "bad client")
        assert right(await caller.ask(sent), sent, "a value is over 100")
        assert caller.rows == [63, 1]
        assert right(await caller.ask(sent), sent, "a value is over 100")
        assert caller.rows == [64]
        await caller.engine.retire()

    asyncio.run(ask())


def test_a_batch_of_bad_rows_alone_costs_little_more_than_a_call_for_each(
    make_archive: MakeArchive,
) -> None:
    async def ask() -> None:
        caller = Caller(make_archive("picky"))
        await caller.start()
        sent: list[tuple[float, Hashable]] = [(BAD, number) for number in range(64)]
        assert right(await caller.ask(sent), sent, "a value is over 100")
        assert len(caller.rows) <= 64 + 1 + 3 * 6
        await caller.engine.retire()

    asyncio.run(ask())


def test_rows_that_fail_together_and_not_alone_are_answered(make_archive: MakeArchive) -> None:
    async def ask() -> None:
        caller = Caller(make_archive("rationed"))
        await caller.start()
        for value in (60.0, 30.0, 5.0):
            sent: list[tuple[float, Hashable]] = [(value, number) for number in range(21)]
            assert right(await caller.ask(sent), sent, "")
        await caller.engine.retire()

    asyncio.run(ask())


@QUICK
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_rows_run_again_as_the_client_sent_them(
    make_archive: MakeArchive,
    inline_threshold_seconds: float,
    rows: int,
) -> None:
    """The model has changed its inputs, and their shape, before it refuses them."""

    async def ask() -> None:
        limits = Limits(max_batch=4, inline_threshold_seconds=inline_threshold_seconds)
        caller = Caller(make_archive("picky"), limits)
        await caller.start()
        good: list[tuple[float, Hashable]] = [(float(n + 1), n) for n in range(rows)]
        for _ in range(3):
            assert right(await caller.ask(good), good, "")
            sent = [*good[1:], (BAD, "bad")]
            assert right(await caller.ask(sent), sent, "a value is over 100")
        await caller.engine.retire()

    asyncio.run(ask())


def test_what_is_left_of_a_request_that_has_failed_is_not_run(make_archive: MakeArchive) -> None:
    async def ask() -> None:
        limits = Limits(max_batch=1, inline_threshold_seconds=10)
        caller = Caller(make_archive("picky"), limits)
        await caller.start()
        caller.rows.clear()
        values = torch.tensor([[BAD], *[[1.0]] * 63])
        with pytest.raises(ModelError, match="a value is over 100"):
            await call_engine(caller.engine, "forward", {"x": values})
        while caller.engine.waiting_rows:
            await asyncio.sleep(0)
        assert len(caller.rows) < 10
        await caller.engine.retire()

    asyncio.run(ask())


def test_a_large_request_with_a_bad_row_fails_as_a_whole(make_archive: MakeArchive) -> None:
    async def ask() -> None:
        engine = Engine(open_archive(make_archive("picky")), Limits(max_batch=4))
        await engine.start()
        values = torch.arange(21.0).unsqueeze(1)
        values[9] = BAD
        with pytest.raises(ModelError, match="a value is over 100"):
            await call_engine(engine, "forward", {"x": values})
        assert (await call_engine(engine, "forward", {"x": values[:9]}))["y"].equal(values[:9] * 2)
        assert engine.waiting_rows == 0
        await engine.retire()

    asyncio.run(ask())

"""When a model leaves the event loop: by its own time, never by that of a busy machine."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from engine_calls import call_engine
from programs import Loader, Run
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.serve.engine.engine import Engine
from torchship.serve.engine.limits import Limits
from torchship.serve.engine.loop_calls import BLOCKED_CALLS, WATCHED_CALLS, LoopCallMonitor
from torchship.serve.system.thread_clock import SystemThreadClock

MakeArchive = Callable[..., Path]
THRESHOLD = 0.001
LIMIT = 0.02  # 20 times as long
LONG = 0.021
SHORT = 0.019


class Clock:
    """Time passes only when it is told to; every thread has its own, but for the wall's."""

    def __init__(self, says_queued: bool = True) -> None:
        self.says_queued = says_queued
        self._used = self._queued = self._blocked = 0.0

    def spend(self, used: float = 0.0, queued: float = 0.0, blocked: float = 0.0) -> None:
        self._used += used
        self._queued += queued
        self._blocked += blocked

    def wall(self) -> float:
        return self._used + self._queued + self._blocked

    def processor(self) -> float:
        return self._used

    def queued(self) -> float | None:
        return self._queued if self.says_queued else None


class Calls:
    """Calls of a model, measured."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.monitor = LoopCallMonitor(THRESHOLD, self.clock)

    def spend(self, used: float = 0.0, queued: float = 0.0, blocked: float = 0.0) -> bool:
        self.monitor.begin()
        began = self.clock.wall()
        self.clock.spend(used, queued, blocked)
        return self.monitor.is_too_slow(began)


def test_one_call_that_computes_too_long_is_enough() -> None:
    calls = Calls()
    assert not any(calls.spend(used=SHORT) for _ in range(1000))
    assert calls.spend(used=LONG)


def test_a_busy_machine_alone_moves_no_model() -> None:
    calls = Calls()
    assert not any(calls.spend(used=THRESHOLD, queued=100 * LONG) for _ in range(1000))
    assert not any(calls.spend(used=SHORT / 2, queued=LONG, blocked=SHORT) for _ in range(1000))


def test_calls_that_are_blocked_again_and_again_are_noticed() -> None:
    calls = Calls()
    found = [calls.spend(used=THRESHOLD, blocked=LONG) for _ in range(1 + BLOCKED_CALLS)]
    assert found == [*[False] * BLOCKED_CALLS, True]


def test_also_with_short_ones_between_them() -> None:
    calls = Calls()
    blocked = 0
    for number in range(WATCHED_CALLS):
        if number % 20 == 0:
            blocked += 1
            if calls.spend(blocked=LONG):
                break
        else:
            assert not calls.spend(used=THRESHOLD)
    assert blocked == 1 + BLOCKED_CALLS


def test_a_wait_now_and_then_is_no_reason() -> None:
    """The process is stopped for an hour, or its memory was swapped out."""
    calls = Calls()
    for _ in range(20):
        assert not calls.spend(blocked=3600.0)
        assert not any(calls.spend(used=THRESHOLD) for _ in range(WATCHED_CALLS))


def test_where_the_system_does_not_say_who_was_to_blame_only_the_processor_counts() -> None:
    calls = Calls(Clock(says_queued=False))
    assert not any(calls.spend(used=THRESHOLD, blocked=LONG) for _ in range(1000))
    assert calls.spend(used=LONG)


def test_a_model_that_blocks_on_the_event_loop_goes_on_in_its_thread(
    make_archive: MakeArchive, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    on_loop: list[bool] = []

    def blocking(run: Run, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        on_loop.append(threading.current_thread() is threading.main_thread())
        clock.spend(blocked=20 * 10 + 1)
        return run()

    async def ask() -> None:
        loader = Loader()
        engine = Engine(
            open_archive(make_archive("held")),
            Limits(max_batch=2, inline_threshold_seconds=10),
            load=loader.load,
            clock=clock,
        )
        await engine.start()
        loader.around = blocking
        for calls in range(10):
            assert engine.runs_on_loop == (calls <= BLOCKED_CALLS)
            x = torch.ones(1, 1)
            assert (await call_engine(engine, "forward", {"x": x}))["y"].equal(x * 2)
        await engine.retire()

    asyncio.run(ask())
    assert on_loop == [*[True] * (1 + BLOCKED_CALLS), *[False] * (9 - BLOCKED_CALLS)]
    assert "took longer than 200 s on the event loop: it goes on in a thread" in caplog.text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3000000000 2500000000 7\n", 2.5), ("0 0 0\n", 0.0), ("", None), ("not a number\n", None)],
)
def test_the_time_that_a_thread_waited_for_a_processor(
    tmp_path: Path, text: str, seconds: float | None
) -> None:
    file = tmp_path / "schedstat"
    file.write_text(text)
    assert SystemThreadClock(str(file)).queued() == seconds
    assert SystemThreadClock(str(tmp_path / "missing")).queued() is None

"""What shows that a call runs, and for how long."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine_calls import call_engine
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.serve.engine.call_watchdog import CallWatchdog, marked
from torchship.serve.engine.engine import Engine
from torchship.serve.engine.limits import Limits
from torchship.serve.system.heartbeat import Heartbeat

MakeArchive = Callable[..., Path]


def test_a_call_shows_in_the_heartbeat_also_if_it_fails() -> None:
    heartbeat = Heartbeat()
    seen: list[int] = []

    def call(method: str, inputs: object) -> Flat:
        seen.append(heartbeat.state().call)
        if method == "bad":
            raise ValueError
        return {}

    assert marked(call, heartbeat, 7)("good", {}) == {}
    assert heartbeat.state().call == 0
    with pytest.raises(ValueError):
        marked(call, heartbeat, 7)("bad", {})
    assert heartbeat.state().call == 0
    assert seen == [7, 7]


def test_a_call_that_takes_too_long_is_told_once() -> None:
    async def look() -> str:
        told: asyncio.Queue[str] = asyncio.Queue()
        watch = CallWatchdog(3, 0.1)
        watch.start(told.put_nowait)
        watch.doing = "a call of golden case 2 ('x')"
        watch.heartbeat.enter(3)
        first = await asyncio.wait_for(told.get(), 60)
        assert told.empty()
        watch.stop()
        return first

    assert asyncio.run(look()) == "a call of golden case 2 ('x') took longer than 0.1 s"


def test_time_in_which_the_process_did_not_run_does_not_count() -> None:
    async def look() -> bool:
        told: asyncio.Queue[str] = asyncio.Queue()
        watch = CallWatchdog(3, 0.1)
        watch.start(told.put_nowait)
        watch.heartbeat.enter(3)
        threading.Event().wait(0.5)  # as if stopped: the event loop does not turn
        for _ in range(3):
            await asyncio.sleep(0)
        watch.heartbeat.leave()
        watch.stop()
        return told.empty()

    assert asyncio.run(look())


def test_a_model_on_the_event_loop_shows_in_the_heartbeat_of_the_process(
    make_archive: MakeArchive,
) -> None:
    """Another thread looks until it sees the call: the event loop itself cannot."""
    heartbeat = Heartbeat()
    seen = threading.Event()
    done = threading.Event()

    async def ask() -> None:
        engine = Engine(
            open_archive(make_archive("held")),
            Limits(max_batch=2, inline_threshold_seconds=10),
            heartbeat=heartbeat,
        )
        other = Engine(open_archive(make_archive("held", version="2")), heartbeat=heartbeat)
        assert 0 < engine.number != other.number > 0

        def look() -> None:
            while not done.is_set():
                if heartbeat.state().call == engine.number:
                    seen.set()
                    return

        await engine.start()
        assert heartbeat.state().call == 0
        looking = threading.Thread(target=look)
        looking.start()
        await call_engine(engine, "forward", {"x": torch.full((1, 1), 100_000.0)})
        assert heartbeat.state().call == 0
        done.set()
        await asyncio.to_thread(looking.join)
        await engine.retire()

    asyncio.run(ask())
    assert seen.is_set()


def test_golden_cases_on_the_event_loop_show_in_the_heartbeat(make_archive: MakeArchive) -> None:
    class Noted(Heartbeat):
        """Keeps what it was told."""

        def __init__(self) -> None:
            super().__init__()
            self.entered: list[int] = []

        def enter(self, engine: int) -> None:
            self.entered.append(engine)
            super().enter(engine)

    heartbeat = Noted()
    archive = open_archive(make_archive("memory"))

    async def start() -> int:
        engine = Engine(
            archive, Limits(max_batch=2, inline_threshold_seconds=10), heartbeat=heartbeat
        )
        await engine.start()
        await engine.retire()
        return engine.number

    number = asyncio.run(start())
    assert heartbeat.entered == [number] * 3 * sum(len(case.steps) for case in archive.golden)

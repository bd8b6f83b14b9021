"""What shows that a call runs, and for how long."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clocked import SteppedLoop
from engine_calls import call_engine
from programs import Loader, Run
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.serve.engine.call_watchdog import CallWatchdog, marked
from torchship.serve.engine.engine import Engine
from torchship.serve.engine.limits import Limits
from torchship.serve.system.heartbeat import Heartbeat, HeartbeatState

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


class Reports:
    """Keeps what a watchdog reports."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def note(self, what: str) -> None:
        self.found.append(what)


def reports_after(pauses: Sequence[float], heartbeat: Heartbeat | None = None) -> list[int]:
    """Return how many reports there are after each pause of the event loop during one call.

    The watchdog allows 2 s, and so looks every 0.5 s.
    """
    loop = SteppedLoop()
    reports, counts = Reports(), []

    async def look() -> None:
        watchdog = CallWatchdog(3, 2, heartbeat)
        watchdog.start(reports.note)
        watchdog.doing = "a call of golden case 2 ('x')"
        watchdog.heartbeat.enter(3)
        for seconds in pauses:
            loop.now += seconds
            for _ in range(3):  # turns in which the watchdog looks, if it is time to
                await asyncio.sleep(0)
            counts.append(len(reports.found))
        watchdog.stop()

    loop.run_until_complete(look())
    loop.close()
    assert set(reports.found) <= {"a call of golden case 2 ('x') took longer than 2 s"}
    return counts


def test_a_call_that_takes_too_long_is_reported_once() -> None:
    # The first look finds the call, and four more see that it still runs.
    assert reports_after([0.5] * 8) == [0, 0, 0, 0, 1, 1, 1, 1]


def test_time_in_which_the_process_did_not_run_does_not_count() -> None:
    """However late a look is, on the event loop's clock and on that of the heartbeat."""

    class EarlyHeartbeat(Heartbeat):
        def state(self) -> HeartbeatState:
            return replace(super().state(), began=1e-9)

    assert reports_after([1000] * 5, EarlyHeartbeat()) == [0, 0, 0, 0, 1]


def test_a_model_on_the_event_loop_shows_in_the_heartbeat_of_the_process(
    make_archive: MakeArchive,
) -> None:
    heartbeat = Heartbeat()
    seen: list[int] = []

    def watched(run: Run, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        seen.append(heartbeat.state().call)
        return run()

    async def ask() -> int:
        loader = Loader()
        limits = Limits(max_batch=2, inline_threshold_seconds=10)
        archive = open_archive(make_archive("held"))
        engine = Engine(archive, limits, heartbeat=heartbeat, load=loader.load)
        other = Engine(open_archive(make_archive("held", version="2")), heartbeat=heartbeat)
        assert 0 < engine.number != other.number > 0
        await engine.start()
        assert heartbeat.state().call == 0
        loader.around = watched
        await call_engine(engine, "forward", {"x": torch.ones(1, 1)})
        assert heartbeat.state().call == 0
        await engine.retire()
        return engine.number

    number = asyncio.run(ask())
    assert seen == [number]


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

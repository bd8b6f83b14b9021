"""How many calls were under way of late."""

from __future__ import annotations

from torchship.serve.grpc.concurrency import WINDOW_SECONDS, Concurrency


class StandingClock:
    """A clock that moves only when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_calls_one_after_the_other_are_one_at_a_time() -> None:
    concurrency = Concurrency(StandingClock())
    for _ in range(3):
        assert concurrency.enter() == 1
        concurrency.leave()


def test_calls_that_overlapped_are_remembered_for_a_window_and_then_forgotten() -> None:
    clock = StandingClock()
    concurrency = Concurrency(clock)
    assert [concurrency.enter() for _ in range(3)] == [1, 2, 3]
    for _ in range(3):
        concurrency.leave()
    found = []
    for _ in range(4):
        found.append(concurrency.enter())
        concurrency.leave()
        clock.now += WINDOW_SECONDS
    assert found == [3, 3, 1, 1]


def test_after_a_long_pause_nothing_is_remembered() -> None:
    clock = StandingClock()
    concurrency = Concurrency(clock)
    concurrency.enter()
    concurrency.enter()
    concurrency.leave()
    concurrency.leave()
    clock.now = 10 * WINDOW_SECONDS
    assert concurrency.enter() == 1

"""The watchdog's decisions by a worker's heartbeat."""

from __future__ import annotations

import os

import pytest

from torchship.serve.process.watchdog import LOADING, Watchdog
from torchship.serve.system.heartbeat import HEARTBEAT_BYTES, Heartbeat, HeartbeatState
from torchship.serve.system.shared_memory import shared_file

DOG = Watchdog(call_seconds=3, stall_seconds=10)
LATER = Watchdog(call_seconds=30, stall_seconds=10)


@pytest.mark.parametrize(
    ("dog", "state", "complaint"),
    [
        (DOG, HeartbeatState(beat=91, call=0, began=0, loads=0), None),
        (DOG, HeartbeatState(beat=89, call=0, began=0, loads=0), "it answered nobody for 10 s"),
        (DOG, HeartbeatState(beat=99, call=4, began=98, loads=0), None),
        (DOG, HeartbeatState(beat=99, call=4, began=96, loads=0), "a call took longer than 3 s"),
        (DOG, HeartbeatState(beat=99, call=4, began=96, loads=1), "a call took longer than 3 s"),
        (LATER, HeartbeatState(beat=95, call=4, began=91, loads=0), None),
        (LATER, HeartbeatState(beat=95, call=4, began=89, loads=0), "a call took longer than 10 s"),
        (DOG, HeartbeatState(beat=0, call=0, began=0, loads=0), None),  # it has not begun
        (
            DOG,
            HeartbeatState(beat=80, call=0, began=0, loads=1),
            None,
        ),  # LibTorch reads a large file
        (DOG, HeartbeatState(beat=99 - 10 * LOADING, call=0, began=0, loads=1), "nobody for 100 s"),
        (DOG, HeartbeatState(beat=99, call=0, began=1, loads=0), None),  # a call that has ended
    ],
)
def test_what_a_heartbeat_says(dog: Watchdog, state: HeartbeatState, complaint: str | None) -> None:
    found = dog.complaint(state, now=100)
    assert found is None if complaint is None else complaint in (found or "")


def test_a_heartbeat_is_read_from_another_mapping() -> None:
    descriptor = shared_file(HEARTBEAT_BYTES)
    heartbeat, seen = Heartbeat.at(descriptor), Heartbeat.at(descriptor)
    os.close(descriptor)
    assert seen.state() == HeartbeatState(0, 0, 0, 0)
    heartbeat.beat()
    heartbeat.enter(7)
    with heartbeat.loading(), heartbeat.loading():
        state = seen.state()
    assert (state.call, state.loads) == (7, 2)
    assert 0 < state.beat <= state.began
    heartbeat.leave()
    assert (seen.state().call, seen.state().loads) == (0, 0)

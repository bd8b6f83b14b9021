"""Which state of an engine follows which, and what a request is told in each."""

from itertools import product
from pathlib import Path

import pytest

from torchship.script.runtime.archive import open_archive
from torchship.serve.engine.lifecycle import NEXT_STATES, Lifecycle, State
from torchship.serve.errors import NotReadyError, OutOfServiceError


def test_every_state_says_what_may_follow() -> None:
    assert set(NEXT_STATES) == set(State)
    for before, after in product(State, State):
        lifecycle = Lifecycle("m")
        lifecycle.state = before
        if after in NEXT_STATES[before]:
            lifecycle.move(after)
            assert lifecycle.state is after
        else:
            with pytest.raises(RuntimeError, match=f"cannot go from {before.name} to {after.name}"):
                lifecycle.move(after)
            assert lifecycle.state is before


def test_only_a_ready_engine_has_a_program(archives: dict[str, Path]) -> None:
    program = open_archive(archives["memory"]).program()
    lifecycle = Lifecycle("m")
    for state in (State.NEW, State.WARMING_UP):
        if state is State.WARMING_UP:
            lifecycle.start()
        assert lifecycle.state is state
        with pytest.raises(NotReadyError, match="model 'm' is not ready"):
            lifecycle.program()
    lifecycle.check_warming_up()
    lifecycle.finish_warm_up(program)
    assert lifecycle.program() is program
    with pytest.raises(NotReadyError, match="shutting down"):
        lifecycle.check_warming_up()
    lifecycle.close()
    with pytest.raises(NotReadyError, match="model 'm' is not ready"):
        lifecycle.program()


def test_an_engine_that_is_closed_in_its_warm_up_does_not_become_ready(
    archives: dict[str, Path],
) -> None:
    lifecycle = Lifecycle("m")
    lifecycle.start()
    lifecycle.close()
    with pytest.raises(NotReadyError, match="shutting down"):
        lifecycle.finish_warm_up(open_archive(archives["memory"]).program())
    with pytest.raises(NotReadyError, match="shutting down"):
        lifecycle.start()
    assert lifecycle.state is State.CLOSED


@pytest.mark.parametrize("closed", [False, True])
def test_an_engine_out_of_service_keeps_its_first_reason(closed: bool) -> None:
    lifecycle = Lifecycle("m")
    lifecycle.start()
    if closed:
        lifecycle.close()
    assert lifecycle.take_out("a call took too long")
    assert not lifecycle.take_out("its thread has ended")
    lifecycle.close()
    assert lifecycle.state is State.OUT_OF_SERVICE
    with pytest.raises(OutOfServiceError, match="a call took too long"):
        lifecycle.program()

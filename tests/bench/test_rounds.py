"""Rounds: everything is measured equally often, and a failure is noted."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch
from side_by_side.peers import WrongError, check
from side_by_side.rounds import Contender, Measured, measure_rounds, one_line

HOUR = 3600


def counting(name: str, calls: list[str]) -> Contender:
    def measure() -> float:
        calls.append(name)
        return float(len(calls))

    return Contender(name, measure)


def test_contenders_take_turns_and_the_order_changes() -> None:
    calls: list[str] = []
    measured = Measured()
    contenders = [counting("a", calls), counting("b", calls)]
    assert measure_rounds(contenders, 3, time.perf_counter() + HOUR, measured) == 3
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert measured.figures == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_a_contender_that_fails_later_has_no_figures() -> None:
    def values() -> Iterator[float]:
        yield 1.0
        raise ValueError("no memory\nand more")

    found = values()
    calls: list[str] = []
    measured = Measured()
    contenders = [Contender("bad", lambda: next(found)), counting("good", calls)]
    measure_rounds(contenders, 2, time.perf_counter() + HOUR, measured)
    assert measured.figures == {"good": [1.0, 2.0]}
    assert measured.unmeasured == {"bad": "ValueError: no memory"}


def test_no_round_is_begun_after_the_time_but_three_are() -> None:
    calls: list[str] = []
    measured = Measured()
    assert measure_rounds([counting("a", calls)], 9, time.perf_counter() - 1, measured) == 3
    assert len(measured.figures["a"]) == 3


def test_a_reason_is_one_short_line() -> None:
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 999))) == 200


def test_wrong_outputs_of_a_peer_are_refused() -> None:
    right = torch.tensor([1.0, -200.0])
    check([right], [(right * 1.00001).numpy()])
    for wrong in ([right + 1], [right, right], [right[:1]], [right * float("nan")]):
        with pytest.raises(WrongError):
            check([right], wrong)
    with pytest.raises(WrongError):
        check([right], [right + 0.1])
    check([right], [right + 0.1], own_error=0.05)

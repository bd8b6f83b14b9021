import asyncio
import math
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from torchship.script.archive import open_archive
from torchship.script.errors import ModelError
from torchship.script.program import Program
from torchship.script.tree import Flat
from torchship.serve.engine import Engine
from torchship.serve.errors import DisagreementError, NotReadyError, RequestError

MakeArchive = Callable[..., Path]


def start(path: Path) -> Engine:
    engine = Engine(open_archive(path))
    asyncio.run(engine.start())
    return engine


def refused(path: Path) -> str:
    with pytest.raises(DisagreementError) as caught:
        start(path)
    return str(caught.value)


def test_a_sound_archive_answers(archives: dict[str, Path]) -> None:
    engine = start(archives["memory"])
    inputs = {"x": torch.ones(1, 2), "h": torch.full((1, 2), 4.0)}
    assert asyncio.run(engine.call("forward", inputs))["h"].tolist() == [[3.0, 3.0]]
    engine.close()


def test_every_golden_case_runs_three_times_on_the_one_thread_that_answers(
    archives: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    plain = Program.call

    def watched(self: Program, method: str, inputs: Flat) -> Flat:
        threads.append(threading.current_thread())
        return plain(self, method, inputs)

    monkeypatch.setattr(Program, "call", watched)
    engine = start(archives["tiny"])
    assert len(threads) == 3 * 3
    asyncio.run(engine.call("forward", {"obs": torch.zeros(1, 510, dtype=torch.uint8)}))
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()
    engine.close()


def test_an_edited_golden_value_is_refused_and_named(make_archive: MakeArchive) -> None:
    def edit(outputs: Flat) -> Flat:
        if "logits" in outputs:
            outputs["logits"] += torch.tensor([[0, 0.5, 0]])
        return outputs

    message = refused(make_archive("tiny", edit=edit))
    assert message.startswith(
        "golden case 0 ('forward, one step'), method 'forward', step 0, output 'logits': "
        "2 of 6 values differ by up to 0.5 (atol 1e-05, rtol 1.3e-06); the first at flat index 1"
    )


def test_a_golden_output_too_much_is_refused(make_archive: MakeArchive) -> None:
    message = refused(make_archive("tiny", edit=lambda out: out | {"extra": torch.ones(1)}))
    assert "output 'extra': the output is missing" in message


def test_the_first_step_that_differs_is_named(make_archive: MakeArchive) -> None:
    steps: list[Flat] = []

    def edit(outputs: Flat) -> Flat:
        steps.append(outputs)
        return outputs | {"y": outputs["y"] + len(steps) - 1}

    assert "step 1, output 'y'" in refused(make_archive("memory", edit=edit))


def test_the_state_that_a_step_leaves_is_checked(make_archive: MakeArchive) -> None:
    steps: list[Flat] = []

    def edit(outputs: Flat) -> Flat:
        steps.append(outputs)
        return outputs if len(steps) < 3 else outputs | {"h": outputs["h"] * 1.001}

    assert "step 2, output 'h'" in refused(make_archive("memory", edit=edit))


def test_a_golden_nan_is_refused(make_archive: MakeArchive) -> None:
    message = refused(
        make_archive("logarithm", edit=lambda out: {"output": out["output"] * math.nan})
    )
    assert "output 'output'" in message


def test_an_archive_without_golden_cases_is_refused(make_archive: MakeArchive) -> None:
    assert "it has no golden cases" in refused(make_archive("tiny", golden=False))


def test_an_engine_that_did_not_prove_itself_does_not_answer(make_archive: MakeArchive) -> None:
    engine = Engine(open_archive(make_archive("tiny", edit=lambda out: {})))
    with pytest.raises(NotReadyError):
        asyncio.run(engine.call("forward", {}))
    engine.close()


def test_a_closed_engine_stops_its_checks(archives: dict[str, Path]) -> None:
    engine = Engine(open_archive(archives["tiny"]))
    proving = threading.Event()
    engine._stopping = proving
    proving.set()
    with pytest.raises(NotReadyError, match="shutting down"):
        asyncio.run(engine.start())
    engine.close()


class Reusing(nn.Module):
    """Gives every caller the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.buffer.copy_(x)


def test_an_answer_is_not_overwritten_by_the_next(archives: dict[str, Path]) -> None:
    async def ask() -> list[float]:
        engine = Engine(open_archive(archives["logarithm"]))
        engine._program = Program(engine.manifest, Reusing())
        answers = [await engine.call("forward", {"x": torch.full((1,), x)}) for x in (1.0, 2.0)]
        engine.close()
        return [answer["output"].item() for answer in answers]

    assert asyncio.run(ask()) == [1.0, 2.0]


def test_what_the_model_raises_is_its_own_message(archives: dict[str, Path]) -> None:
    engine = start(archives["logarithm"])
    with pytest.raises(ModelError, match=r"raised: the sum is over 100$"):
        asyncio.run(engine.call("forward", {"x": torch.full((3,), 50.0)}))
    engine.close()


def test_a_method_that_is_not_there_is_refused(archives: dict[str, Path]) -> None:
    engine = Engine(open_archive(archives["tiny"]))
    with pytest.raises(RequestError, match="has no method 'train': expected 'forward', 'act'"):
        engine.signature("train")
    engine.close()

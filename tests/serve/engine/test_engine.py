import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from engine_calls import call_engine
from programs import Loader, Run
from torchship.script.errors import InputError, ModelError
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.serve.engine.engine import Engine
from torchship.serve.engine.limits import Limits
from torchship.serve.errors import (
    DeadlineError,
    DisagreementError,
    NotReadyError,
    QueueFullError,
    RequestError,
)
from torchship.serve.telemetry.records import BatchReport

MakeArchive = Callable[..., Path]


def start(path: Path, loader: Loader | None = None) -> Engine:
    engine = Engine(open_archive(path), load=(loader or Loader()).load)
    asyncio.run(engine.start())
    return engine


def refused(path: Path) -> str:
    with pytest.raises(DisagreementError) as caught:
        start(path)
    return str(caught.value)


def test_a_sound_archive_answers(archives: dict[str, Path]) -> None:
    engine = start(archives["memory"])
    inputs = {"x": torch.ones(1, 2), "h": torch.full((1, 2), 4.0)}
    assert asyncio.run(call_engine(engine, "forward", inputs))["h"].tolist() == [[3.0, 3.0]]
    engine.close()


def test_every_golden_case_runs_three_times_on_the_one_thread_that_answers(
    archives: dict[str, Path],
) -> None:
    threads: list[threading.Thread] = []

    def watched(run: Run, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        threads.append(threading.current_thread())
        return run()

    engine = start(archives["tiny"], Loader(watched))
    independence = 2 * (64 + 5 + 3)  # of both methods: rows alone, together, with other neighbours
    warm_up = 2 * 2 * 64  # of both methods at every batch size
    assert len(threads) == 3 * 3 + independence + warm_up
    asyncio.run(call_engine(engine, "forward", {"obs": torch.zeros(1, 510, dtype=torch.uint8)}))
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()
    engine.close()


def test_every_batch_size_that_can_come_is_run_twice_before(archives: dict[str, Path]) -> None:
    calls: list[tuple[str, int]] = []

    def watched(run: Run, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        calls.append((method, len(inputs["obs"])))
        return run()

    limits = Limits(max_batch=5)
    engine = Engine(open_archive(archives["tiny"]), limits, load=Loader(watched).load)
    asyncio.run(engine.start())
    engine.close()
    sizes = [size for size in range(1, 6) for _ in range(2)]
    expected = [(method, size) for method in ("forward", "act") for size in sizes]
    assert calls[-len(expected) :] == expected


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
        asyncio.run(call_engine(engine, "forward", {}))
    engine.close()


@pytest.mark.parametrize("limits", [Limits(), Limits(inline_threshold_seconds=10)])
def test_a_closed_engine_stops_its_warm_up(archives: dict[str, Path], limits: Limits) -> None:
    """It is closed in the first call in its thread, or in the first one on the event loop."""
    calls: list[bool] = []

    def closing(run: Run, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        on_loop = threading.current_thread() is threading.main_thread()
        if on_loop or not limits.inline_threshold_seconds:
            calls.append(on_loop)
            engine.close()
        return run()

    archive = open_archive(archives["tiny"])
    engine = Engine(archive, limits, load=Loader(closing).load)
    with pytest.raises(NotReadyError, match="shutting down"):
        asyncio.run(engine.start())
    assert engine.join()
    assert len(archive.golden) > 1
    assert len(calls) == 3 * len(archive.golden[0].steps), "it ends with its case"
    with pytest.raises(NotReadyError, match="is not ready"):
        asyncio.run(call_engine(engine, "forward", {}))


def test_an_engine_that_was_closed_before_does_not_start(archives: dict[str, Path]) -> None:
    engine = Engine(open_archive(archives["memory"]))
    engine.close()
    with pytest.raises(NotReadyError, match="shutting down"):
        asyncio.run(engine.start())
    assert engine.join()


class Reusing(nn.Module):
    """Gives every caller the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.buffer.copy_(x)


def test_an_answer_is_not_overwritten_by_the_next(archives: dict[str, Path]) -> None:
    async def ask() -> list[float]:
        loader = Loader()
        engine = Engine(open_archive(archives["logarithm"]), load=loader.load)
        await engine.start()
        loader.instead = Reusing()
        answers = [
            await call_engine(engine, "forward", {"x": torch.full((1,), x)}) for x in (1.0, 2.0)
        ]
        engine.close()
        return [answer["output"].item() for answer in answers]

    assert asyncio.run(ask()) == [1.0, 2.0]


def test_what_the_model_raises_is_its_own_message(archives: dict[str, Path]) -> None:
    engine = start(archives["logarithm"])
    with pytest.raises(ModelError, match=r"raised: the sum is over 100$"):
        asyncio.run(call_engine(engine, "forward", {"x": torch.full((3,), 50.0)}))
    engine.close()


def test_a_method_that_is_not_there_is_refused(archives: dict[str, Path]) -> None:
    engine = Engine(open_archive(archives["tiny"]))
    with pytest.raises(RequestError, match="has no method 'train': expected 'forward', 'act'"):
        engine.signature("train")
    engine.close()


class Gate:
    """Holds the engine's calls until it is opened; records their rows."""

    def __init__(self, loader: Loader) -> None:
        self.rows: list[int] = []
        self.inside = threading.Event()
        self._open = threading.Event()
        loader.around = self._around

    def _around(self, run: Run, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        self.rows.append(len(inputs["obs"]))
        self.inside.set()
        assert self._open.wait(30)
        return run()

    async def entered(self) -> None:
        """Wait until the engine is busy."""
        assert await asyncio.to_thread(self.inside.wait, 30)

    def open(self) -> None:
        self._open.set()


@asynccontextmanager
async def busy(
    path: Path, limits: Limits | None = None, loader: Loader | None = None
) -> AsyncIterator[tuple[Engine, Gate, asyncio.Task[Flat]]]:
    """An engine that is in a call of one row, until the gate is opened; and that call."""
    loader = loader or Loader()
    engine = Engine(open_archive(path), limits, load=loader.load)
    await engine.start()
    gate = Gate(loader)
    first = asyncio.create_task(call_engine(engine, "forward", observations(1, 1)))
    await gate.entered()
    try:
        yield engine, gate, first
    finally:
        gate.open()
        engine.close()


def observations(seed: int, rows: int) -> Flat:
    generator = torch.Generator().manual_seed(seed)
    return {"obs": torch.randint(256, (rows, 510), generator=generator).byte()}


def test_what_waits_while_the_engine_is_busy_is_the_next_batch(archives: dict[str, Path]) -> None:
    requests = [observations(seed, rows) for seed, rows in enumerate((1, 2, 1, 3, 60, 2))]
    program = open_archive(archives["tiny"]).program()
    alone = [program.call("forward", inputs)["logits"] for inputs in requests]

    async def ask() -> list[Flat]:
        loader = Loader()
        engine = Engine(open_archive(archives["tiny"]), Limits(max_batch=64), load=loader.load)
        await engine.start()
        gate = Gate(loader)
        first = asyncio.create_task(call_engine(engine, "forward", requests[0]))
        await gate.entered()
        others = [asyncio.create_task(call_engine(engine, "forward", r)) for r in requests[1:]]
        act = asyncio.create_task(call_engine(engine, "act", requests[1]))
        await asyncio.sleep(0)  # a turn of the loop, in which they enter the line
        gate.open()
        answers = await asyncio.gather(first, *others)
        (choices,) = (await act).values()
        assert choices.tolist() == alone[1].argmax(1).tolist()
        # 2 + 1 + 3 and, past the 60 that do not fit, 2; then 60; then the other method
        assert gate.rows == [1, 8, 60, 2]
        engine.close()
        return answers

    for answer, expected in zip(asyncio.run(ask()), alone, strict=True):
        torch.testing.assert_close(answer["logits"], expected)


def test_an_idle_engine_begins_at_once(archives: dict[str, Path]) -> None:
    async def ask() -> None:
        loader = Loader()
        engine = Engine(open_archive(archives["tiny"]), load=loader.load)
        await engine.start()
        gate = Gate(loader)
        only = asyncio.create_task(call_engine(engine, "forward", observations(1, 1)))
        await gate.entered()  # though nothing else came
        gate.open()
        await only
        assert gate.rows == [1]
        engine.close()

    asyncio.run(ask())


def test_a_large_request_runs_in_parts_that_were_allowed(archives: dict[str, Path]) -> None:
    inputs = observations(1, 21)

    async def ask() -> Flat:
        loader = Loader()
        engine = Engine(open_archive(archives["tiny"]), Limits(max_batch=8), load=loader.load)
        await engine.start()
        gate = Gate(loader)
        gate.open()
        answer = await call_engine(engine, "forward", inputs)
        assert gate.rows == [8, 8, 5]
        engine.close()
        return answer

    expected = open_archive(archives["tiny"]).program().call("forward", inputs)
    torch.testing.assert_close(asyncio.run(ask())["logits"], expected["logits"])


def test_one_bad_request_of_a_batch_fails_alone(archives: dict[str, Path]) -> None:
    class Picky(nn.Module):
        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            if bool((obs[:, 0] == 255).any()):
                raise ValueError("a row begins with 255")
            return obs[:, :3].float()

    def row(first: int) -> Flat:
        obs = torch.zeros(1, 510, dtype=torch.uint8)
        obs[0, 0] = first
        return {"obs": obs}

    async def ask() -> list[Flat | BaseException]:
        loader = Loader()
        async with busy(archives["tiny"], loader=loader) as (engine, gate, before):
            loader.instead = Picky()
            calls = [
                asyncio.create_task(call_engine(engine, "forward", row(n))) for n in (1, 255, 3, 4)
            ]
            await asyncio.sleep(0)  # a turn of the loop, in which they enter the queue
            gate.open()
            await before
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert gate.rows == [1, 4, 2, 1, 1, 2], "they ran together, then in halves"
        return answers

    one, bad, three, four = asyncio.run(ask())
    assert isinstance(bad, ModelError)
    assert str(bad).endswith("a row begins with 255")
    for answer, first in ((one, 1.0), (three, 3.0), (four, 4.0)):
        assert isinstance(answer, dict)
        assert answer["logits"].tolist() == [[first, 0.0, 0.0]]


def test_a_request_that_waited_too_long_or_left_is_not_run(archives: dict[str, Path]) -> None:
    async def ask() -> None:
        async with busy(archives["tiny"]) as (engine, gate, first):
            late = asyncio.create_task(
                call_engine(engine, "forward", observations(2, 2), timeout=0.0)
            )
            left = asyncio.create_task(call_engine(engine, "forward", observations(3, 3)))
            last = asyncio.create_task(call_engine(engine, "forward", observations(4, 4)))
            await asyncio.sleep(0)
            left.cancel()
            gate.open()
            await first
            with pytest.raises(DeadlineError):
                await late
            assert (await last)["logits"].shape == (4, 3)
            assert gate.rows == [1, 4]

    asyncio.run(ask())


def test_a_full_queue_refuses_at_once_and_recovers(archives: dict[str, Path]) -> None:
    async def ask() -> None:
        async with busy(archives["tiny"], Limits(max_queue=4)) as (
            engine,
            gate,
            first,
        ):
            waiting = asyncio.create_task(call_engine(engine, "forward", observations(2, 4)))
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError, match="4 rows wait, 1 more"):
                await call_engine(engine, "forward", observations(3, 1))
            gate.open()
            await asyncio.gather(first, waiting)
            assert (await call_engine(engine, "forward", observations(3, 1)))["logits"].shape == (
                1,
                3,
            )

    asyncio.run(ask())


def test_a_bad_input_is_refused_before_it_waits(archives: dict[str, Path]) -> None:
    engine = start(archives["tiny"])
    with pytest.raises(InputError, match=r"input 'obs': expected uint8\[batch,510\], got"):
        asyncio.run(call_engine(engine, "forward", {"obs": torch.zeros(1, 510)}))
    engine.close()


def test_closing_refuses_waiting_requests(archives: dict[str, Path]) -> None:
    async def ask() -> None:
        async with busy(archives["tiny"]) as (engine, gate, first):
            waiting = asyncio.create_task(call_engine(engine, "forward", observations(2, 1)))
            await asyncio.sleep(0)
            engine.close()
            gate.open()
            assert (await first)["logits"].shape == (1, 3)
            with pytest.raises(NotReadyError, match="is closed"):
                await waiting
            with pytest.raises(NotReadyError):
                await call_engine(engine, "forward", observations(3, 1))

    asyncio.run(ask())


def test_only_outputs_that_someone_wants_are_copied(archives: dict[str, Path]) -> None:
    async def ask() -> list[Flat]:
        engine = Engine(open_archive(archives["memory"]))
        await engine.start()
        inputs = {"x": torch.ones(1, 2)}
        wanted = [frozenset({"h"}), frozenset({"y"}), None]
        calls = [call_engine(engine, "forward", inputs, wanted=names) for names in wanted]
        alone = await call_engine(engine, "forward", inputs, wanted=frozenset({"h"}))
        answers = await asyncio.gather(*calls)
        engine.close()
        return [alone, *answers]

    alone, *together = asyncio.run(ask())
    assert set(alone) == {"h"}
    for answer, names in zip(together, ({"h"}, {"y"}, {"y", "h"}), strict=True):
        assert names <= set(answer)


QUICK = Limits(max_batch=4, inline_threshold_seconds=10)


def test_a_quick_model_is_verified_on_the_event_loop_and_answers_there(
    archives: dict[str, Path],
) -> None:
    here: list[bool] = []

    def watched(run: Run, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        here.append(threading.current_thread() is threading.main_thread())
        return run()

    archive = open_archive(archives["tiny"])
    steps = sum(len(case.steps) for case in archive.golden)

    async def ask() -> None:
        engine = Engine(archive, QUICK, load=Loader(watched).load)
        await engine.start()
        assert sum(here) == 3 * steps
        await call_engine(engine, "forward", {"obs": torch.zeros(1, 510, dtype=torch.uint8)})
        assert sum(here) == 3 * steps + 1
        engine.close()
        assert engine.join()

    asyncio.run(ask())


def test_a_model_whose_time_depends_on_more_than_the_batch_keeps_its_thread(
    archives: dict[str, Path],
) -> None:
    async def here(name: str) -> bool:
        engine = Engine(open_archive(archives[name]), QUICK)
        await engine.start()
        engine.close()
        return engine.runs_on_loop

    # logarithm: x float32[n], where n is no batch.
    assert not asyncio.run(here("logarithm"))
    assert asyncio.run(here("tiny"))


def test_a_model_that_differs_on_the_event_loop_is_refused(archives: dict[str, Path]) -> None:

    def wrong(run: Run, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        outputs = run()
        if threading.current_thread() is threading.main_thread():
            outputs = {name: value + 1 for name, value in outputs.items()}
        return outputs

    async def begin() -> None:
        engine = Engine(open_archive(archives["tiny"]), QUICK, load=Loader(wrong).load)
        with pytest.raises(DisagreementError):
            await engine.start()
        assert await asyncio.to_thread(engine.join)

    asyncio.run(begin())


def test_a_model_that_turns_out_slow_goes_on_in_its_thread_for_good(
    make_archive: MakeArchive, caplog: pytest.LogCaptureFixture
) -> None:
    here: list[bool] = []

    def watched(run: Run, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        here.append(threading.current_thread() is threading.main_thread())
        return run()

    async def ask() -> None:
        limits = Limits(max_batch=2, inline_threshold_seconds=0.005)
        loader = Loader()
        engine = Engine(open_archive(make_archive("held")), limits, load=loader.load)
        await engine.start()
        loader.around = watched
        for rounds in (1.0, 400_000.0, *[1.0] * 20):
            x = torch.full((1, 1), rounds)
            assert (await call_engine(engine, "forward", {"x": x}))["y"].equal(x * 2)
        await engine.retire()

    asyncio.run(ask())
    assert here == [True, True, *[False] * 20]
    assert "on the event loop: it goes on in a thread" in caplog.text


@pytest.mark.parametrize("inline_threshold_seconds", [0, 10])
@pytest.mark.parametrize(("rows", "batches"), [([1, 1], [2]), ([1, 1, 1, 1, 1], [4, 1])])
def test_requests_may_wait_for_others_until_a_batch_is_full(
    archives: dict[str, Path], inline_threshold_seconds: float, rows: list[int], batches: list[int]
) -> None:
    reports: list[BatchReport] = []

    async def ask() -> None:
        limits = Limits(
            max_batch=4, delay_seconds=0.2, inline_threshold_seconds=inline_threshold_seconds
        )
        engine = Engine(open_archive(archives["tiny"]), limits, reports.append)
        await engine.start()

        async def later(turns: int, count: int) -> None:
            for _ in range(3 * turns):
                await asyncio.sleep(0)
            obs = torch.zeros(count, 510, dtype=torch.uint8)
            await call_engine(engine, "forward", {"obs": obs})

        await asyncio.gather(*(later(turn, count) for turn, count in enumerate(rows)))
        engine.close()

    asyncio.run(ask())
    assert [report.rows for report in reports] == batches

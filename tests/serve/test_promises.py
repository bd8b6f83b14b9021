"""The server tests an archive's properties again before it is live, also for older archives.

These are packed by hand: the exporter of today would not promise as much.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor, nn

from engine_calls import call_engine
from served import Model, launched, method, needs, once, tensor, write
from torchship.script.errors import ModelError
from torchship.script.format.golden import Case, Step
from torchship.script.format.manifest import State
from torchship.script.format.nodes import Dimension, OptionalNode, TupleNode
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import open_archive
from torchship.serve.client.client import Client
from torchship.serve.engine import golden_requests as rehearsal
from torchship.serve.engine.engine import Engine
from torchship.serve.engine.limits import Limits
from torchship.serve.errors import DisagreementError, RequestError
from torchship.serve.protocol import messages as protocol
from torchship.serve.telemetry.records import BatchReport


class Longest(nn.Module):
    """x: float32[batch,time], lengths: int64[batch] -> the columns up to the longest row."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return x[:, : int(lengths.max())] * 2


def longest(width: Dimension) -> Model:
    """Every row of its golden cases is full: that the width is `time` is what they say."""
    inputs = [
        needs(tensor("x", "float32", "batch", "time")),
        needs(tensor("lengths", "int64", "batch")),
    ]
    cases = [
        once({"x": torch.ones(rows, time), "lengths": torch.full((rows,), time)})
        for rows, time in ((2, 4), (3, 5))
    ]
    output = tensor("y", "float32", "batch", width)
    return Model(Longest(), {"forward": method(inputs, output)}, cases)


class Crowded(nn.Module):
    """x: float32[batch,1] -> twice that, and another thing for more than 16 rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0) if x.shape[0] > 16 else x * 2


class Extreme(nn.Module):
    """x: float32[batch,1] -> divided by the largest of all, if there is one over 2."""

    def forward(self, x: Tensor) -> Tensor:
        top = x.max()
        return x / top if bool(top > 2) else x * 2


class Doubling(nn.Module):
    """x: float32[batch,1] -> twice that."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def column(module: nn.Module, *rows: Sequence[float]) -> Model:
    x = needs(tensor("x", "float32", "batch", 1))
    cases = [once({"x": torch.tensor(values).unsqueeze(1)}) for values in rows]
    return Model(module, {"forward": method([x], tensor("y", "float32", "batch", 1))}, cases)


async def together(
    path: Path, requests: Sequence[Flat], limits: Limits
) -> tuple[list[Any], list[int]]:
    """Return what each request gets that comes with the others, and how many ran in each call."""
    calls: list[BatchReport] = []
    engine = Engine(open_archive(path), limits, calls.append)
    await engine.start()
    try:
        asked = (call_engine(engine, "forward", request) for request in requests)
        answers = await asyncio.gather(*asked, return_exceptions=True)
    finally:
        await engine.retire()
    return answers, [call.requests for call in calls]


@pytest.mark.parametrize("inline_threshold_seconds", [0.0, 1.0])
@pytest.mark.parametrize("width", [None, "width"])
def test_no_request_gets_the_width_of_another(
    width: Dimension, inline_threshold_seconds: float, tmp_path: Path
) -> None:
    write(tmp_path / "longest.pt", longest(width), "longest")
    requests = [
        {"x": torch.ones(1, 4), "lengths": torch.tensor([length])} for length in (4, 2, 3, 2)
    ]
    limits = Limits(inline_threshold_seconds=inline_threshold_seconds)
    answers, sizes = asyncio.run(together(tmp_path / "longest.pt", requests, limits))
    assert [tuple(answer["y"].shape) for answer in answers] == [(1, 4), (1, 2), (1, 3), (1, 2)]
    assert sizes == [1, 1, 1, 1]


def test_a_width_that_was_taken_for_the_inputs_is_found_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "longest.pt", longest("time"), "longest")
    requests = [{"x": torch.ones(1, 4), "lengths": torch.tensor([length])} for length in (4, 2)]
    (full, short), sizes = asyncio.run(together(tmp_path / "longest.pt", requests, Limits()))
    assert full["y"].tolist() == [[2.0] * 4]
    assert isinstance(short, ModelError)
    assert str(short) == "output 'y': expected float32[1,4], got float32[1,2]"
    assert sizes == [1, 1]
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        "model 'longest' method 'forward': each request runs alone, since its rows are not "
        "independent: a row alone breaks the signature"
    )


@pytest.mark.parametrize(
    ("model", "largest"),
    [
        (column(Crowded(), [1.0, 2.0], [3.0]), 64),
        (column(Extreme(), [1.0, 1.5], [2.5, 1.0, -1.0]), 4),
    ],
)
def test_rows_that_depend_on_each_other_run_alone(
    model: Model, largest: int, tmp_path: Path
) -> None:
    write(tmp_path / "a.pt", model, "a")
    values = [0.5, 1.0, 1.5, 2.0, 2.5] * 8
    requests = [{"x": torch.tensor([[value]])} for value in values]
    limits = Limits(max_batch=largest)
    answers, sizes = asyncio.run(together(tmp_path / "a.pt", requests, limits))
    alone = [model.module(request["x"]).item() for request in requests]
    assert [answer["y"].item() for answer in answers] == alone
    assert sizes == [1] * 40


def test_rows_that_are_independent_run_together(tmp_path: Path) -> None:
    write(tmp_path / "a.pt", column(Doubling(), [1.0, 2.0], [3.0]), "a")
    requests = [{"x": torch.tensor([[float(value)]])} for value in range(40)]
    answers, sizes = asyncio.run(together(tmp_path / "a.pt", requests, Limits()))
    assert [answer["y"].item() for answer in answers] == [2.0 * value for value in range(40)]
    assert sizes == [40]


class Biased(nn.Module):
    """x: float32[batch,1], bias: the same or left out -> twice x; a bias is all rows' mean."""

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        return x * 2 if bias is None else x * 2 + bias.mean()


def test_inputs_that_no_golden_case_gives_run_alone(tmp_path: Path) -> None:
    row = ("float32", "batch", 1)
    optional = needs(OptionalNode(item=tensor("bias", *row)), required=False)
    signature = method([needs(tensor("x", *row)), optional], tensor("y", *row))
    case = once({"x": torch.tensor([[1.0], [2.0]])})
    write(tmp_path / "a.pt", Model(Biased(), {"forward": signature}, [case]), "a")
    plain: list[Flat] = [{"x": torch.tensor([[float(value)]])} for value in range(4)]
    biased = [{**request, "bias": request["x"]} for request in plain]
    answers, sizes = asyncio.run(together(tmp_path / "a.pt", plain + biased, Limits()))
    assert [answer["y"].item() for answer in answers] == [0, 2, 4, 6, 0, 3, 6, 9]
    assert sizes == [4, 1, 1, 1, 1]


def test_an_output_that_nobody_asks_for_is_checked_too(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 2, x[x[:, 0] > 0]

    row = ("float32", "batch", 1)
    signature = method(
        [needs(tensor("x", *row))], TupleNode(items=(tensor("y", *row), tensor("z", *row)))
    )
    model = Model(Pair(), {"forward": signature}, [once({"x": torch.ones(2, 1)})])
    write(tmp_path / "pair.pt", model, "pair")

    async def ask(wanted: frozenset[str] | None) -> None:
        engine = Engine(open_archive(tmp_path / "pair.pt"))
        await engine.start()
        try:
            await call_engine(engine, "forward", {"x": -torch.ones(2, 1)}, wanted=wanted)
        finally:
            await engine.retire()

    for wanted in (None, frozenset("y")):
        with pytest.raises(ModelError, match=r"output 'z': expected float32\[2,1\], got"):
            asyncio.run(ask(wanted))


class Carrying(nn.Module):
    """Gives what its tensors carry lazily, a parameter, and what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.tensor([0.5, -0.5]))

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        lazy = torch.complex(x, x).conj().imag
        return lazy, self.log_std, x, torch._neg_view(x + h), x.to(torch.bfloat16)


def carrying() -> Model:
    row = ("float32", "batch", 1)
    outputs = [tensor(name, *row) for name in ("lazy", "same", "h")]
    outputs.insert(1, tensor("log_std", "float32", 2))
    outputs.append(tensor("half", "bfloat16", "batch", 1))
    signature = method(
        [needs(tensor("x", *row)), needs(tensor("h", *row))],
        TupleNode(items=tuple(outputs)),
        [State(input="h", output="h", start="zeros")],
    )
    steps = tuple(Step({"x": torch.tensor([[1.0], [number]])}) for number in (2.0, 3.0))
    return Model(Carrying(), {"forward": signature}, [Case("steps", "forward", steps)])


def test_a_ready_server_answers_whatever_its_tensors_carry(tmp_path: Path) -> None:
    path = tmp_path / "carrying.pt"
    write(path, carrying(), "carrying")
    signature = carrying().methods["forward"]
    with launched(path) as process, Client(process.url) as client:
        assert process.line() == "ready: carrying/1"
        for rows in (1, 3):
            x = torch.arange(1.0, rows + 1).unsqueeze(1)
            for binary in (True, False):
                answered = client.infer("carrying", signature, {"x": x}, binary=binary)
                assert torch.equal(answered["lazy"], -x)
                assert torch.equal(answered["same"], x)
                assert torch.equal(answered["h"], -x)
                assert answered["log_std"].tolist() == [0.5, -0.5]
                assert torch.equal(answered["half"], x.bfloat16())
        given = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [2.0]}
        carried = []
        for step in range(3):
            parameters = {"sequence_id": "a", "sequence_start": step == 0}
            body = {"inputs": [given], "parameters": parameters, "outputs": [{"name": "h"}]}
            answer = httpx.post(
                f"{process.url}/v2/models/carrying/infer", json=body, trust_env=False
            )
            carried += answer.json()["outputs"][0]["data"]
        assert carried == [-2.0, 0.0, -2.0]


def test_what_a_client_sends_is_what_its_tensors_say(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    write(path, column(Doubling(), [1.0]), "a")
    signature = column(Doubling(), [1.0]).methods["forward"]
    five = torch.tensor([[5.0]])
    with launched(path) as process, Client(process.url) as client:
        assert process.line() == "ready: a/1"
        for x in (
            torch._neg_view(five),
            nn.Parameter(-five),
            torch.complex(five, five).conj().imag,
        ):
            for binary in (True, False):
                answered = client.infer("a", signature, {"x": x}, binary=binary)
                assert answered["y"].tolist() == [[-10.0]]


@pytest.mark.parametrize("form", ["binary data", "JSON"])
def test_a_model_whose_answers_cannot_be_encoded_is_not_ready(
    form: str, make_archive: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = protocol.encode_outputs

    def failing(request: Any, *more: Any) -> Any:
        if all(output.binary for output in request.outputs) == (form == "binary data"):
            raise RequestError(f"no {form} today")
        return encode(request, *more)

    monkeypatch.setattr(rehearsal, "encode_outputs", failing)
    engine = Engine(open_archive(make_archive("memory")))
    with pytest.raises(DisagreementError, match=f"golden case 0 .*: no {form} today"):
        asyncio.run(engine.start())

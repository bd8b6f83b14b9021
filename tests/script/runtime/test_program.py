"""A loaded model wrapped in its signature: valid inputs, and the errors for others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import zoo
from torchship.script.errors import InputError, ModelError
from torchship.script.exporting.export import Options, export
from torchship.script.exporting.target import find_target
from torchship.script.format.tree import Flat, string_to_tensor
from torchship.script.runtime.program import Program


def program(target: object, folder: Path, options: Options | None = None) -> Program:
    return export(target, folder / "a.pt", options).program()  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Program:
    folder = tmp_path_factory.mktemp("everything")
    return program(zoo.target(zoo.everything, zoo.everything_examples), folder)


@pytest.fixture(scope="module")
def moba(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return program(find_target("moba", None, {}), tmp_path_factory.mktemp("moba"))


def inputs() -> Flat:
    return {
        "x": zoo.noise(1, 2, 3),
        "memory.h": zoo.noise(2, 2, 4),
        "memory.c": zoo.noise(3, 2, 4),
        "options.plus.0": zoo.noise(4, 2, 4),
        "options.plus.1": torch.tensor(0.5, dtype=torch.float64),
        "options.minus.0": zoo.noise(5, 2, 4),
        "options.minus.1": torch.tensor([2.0], dtype=torch.float64),
        "parts.0": zoo.noise(6, 2, 4),
        "sizes.0": torch.tensor(3),
        "sizes.1": torch.tensor(-1),
    }


def refusal(called: Program, changed: Flat, method: str = "forward") -> str:
    with pytest.raises(InputError) as caught:
        called.call(method, changed)
    return str(caught.value)


def test_defaults_are_the_modules_own(everything: Program) -> None:
    plain = everything.call("forward", inputs())
    doubled = everything.call("forward", inputs() | {"tag": string_to_tensor("double")})
    assert torch.equal(doubled["output.0"], plain["output.0"] * 2)
    more = everything.call("forward", inputs() | {"parts.1": zoo.noise(7, 2, 4)})
    torch.testing.assert_close(more["output.0"], plain["output.0"] + 2 * zoo.noise(7, 2, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 3, 1)}, "input 'x': expected float32[batch,3], got float32[2,3,1]"),
        (
            {"x": torch.zeros(2, 3, dtype=torch.float64)},
            "input 'x': expected float32[batch,3], got float64[2,3]",
        ),
        ({"x": torch.zeros(2, 4)}, "input 'x': expected float32[batch,3], got float32[2,4]"),
        (
            {"memory.c": torch.zeros(3, 4)},
            "input 'memory.c': expected float32[batch,4] with batch=2, got float32[3,4]",
        ),
        ({"times": torch.tensor(2.0)}, "input 'times': expected int, got float32[]"),
        ({"times": torch.tensor([1, 2])}, "input 'times': expected int, got int64[2]"),
        ({"flip": torch.tensor(1)}, "input 'flip': expected bool, got int64[]"),
        ({"tag": torch.zeros(3)}, "input 'tag': expected str, got float32[3]"),
        ({"tag": torch.tensor([255], dtype=torch.uint8)}, "input 'tag': expected UTF-8 text"),
    ],
)
def test_inputs_that_do_not_fit(everything: Program, change: Flat, message: str) -> None:
    assert refusal(everything, inputs() | change) == message


def test_an_unknown_input_is_named_with_what_there_is(everything: Program) -> None:
    message = refusal(everything, inputs() | {"y": torch.zeros(1)})
    assert message.startswith("unknown input 'y': expected 'x', 'memory.h', 'memory.c', ")


@pytest.mark.parametrize("name", ["x", "memory.h", "options.plus.1", "sizes.1"])
def test_a_missing_input_is_named(everything: Program, name: str) -> None:
    rest = {key: value for key, value in inputs().items() if key != name}
    assert refusal(everything, rest).startswith(f"input '{name}' is missing: expected ")


def test_half_of_an_optional_pair(everything: Program) -> None:
    message = refusal(everything, inputs() | {"pair.0": torch.zeros(2, 4)})
    assert message.startswith("input 'pair.1' is missing: expected ")


def test_an_unknown_method(moba: Program) -> None:
    assert refusal(moba, {}, "fly") == "model 'moba' has no method 'fly': it has 'forward', 'act'"


def test_the_state_starts_at_zeros(moba: Program) -> None:
    obs = torch.ones(2, 510, dtype=torch.uint8)
    zeros = torch.zeros(2, 128)
    started = moba.call("act", {"obs": obs})
    given = moba.call("act", {"obs": obs, "h": zeros, "c": zeros})
    assert torch.equal(started["actions"], given["actions"])
    assert torch.equal(started["h"], given["h"])


def test_the_message_of_the_issue(moba: Program) -> None:
    message = refusal(moba, {"obs": torch.zeros(1, 512)})
    assert message == "input 'obs': expected uint8[batch,510], got float32[1,512]"


def test_the_start_of_a_state_needs_its_size(tmp_path: Path) -> None:
    accumulator = program(zoo.accumulator_target(), tmp_path)
    message = refusal(accumulator, {})
    assert "input 'total' is missing, and its size 'batch' follows from no other" in message


def test_a_state_that_starts_absent_is_not_made_up(tmp_path: Path) -> None:
    target = zoo.target(
        zoo.accumulator,
        [{"x": zoo.noise(n, n, 3), "total": zoo.noise(n + 5, n, 4)} for n in (2, 3)],
    )
    accumulator = program(target, tmp_path)
    assert "input 'total' is missing" in refusal(accumulator, {"x": zoo.noise(1, 2, 3)})


def test_what_the_model_raises_is_reported_without_a_traceback(moba: Program) -> None:
    obs = torch.full((1, 510), 17, dtype=torch.uint8)
    with pytest.raises(ModelError) as caught:
        moba.call("forward", {"obs": obs})
    assert str(caught.value) == (
        "model 'moba' method 'forward' raised: obs: class byte must be below 16, got 17"
    )


@pytest.mark.parametrize(
    ("how", "message"),
    [(1, "first line"), (2, "shape '[7]' is invalid for input of size 6"), (3, "an assertion")],
)
def test_eager_and_script_raise_the_same_message(how: int, message: str, tmp_path: Path) -> None:
    examples = [{"x": zoo.noise(n, n, 3), "how": 0} for n in (2, 3)]
    scripted = program(zoo.target(zoo.raising, examples), tmp_path)
    for called in (scripted, Program(scripted.manifest, zoo.raising())):
        with pytest.raises(ModelError) as caught:
            called.call("forward", {"x": zoo.noise(1, 2, 3), "how": torch.tensor(how)})
        assert str(caught.value) == f"model 'zoo' method 'forward' raised: {message}"

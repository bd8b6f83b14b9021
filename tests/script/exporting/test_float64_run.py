"""Golden cases in float64: exact inside, and left out where that is not possible."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from torchship.script.exporting.export import export
from torchship.script.exporting.float64_run import MAX_WEIGHTS, float64_outputs
from torchship.script.runtime.archive import FLOAT64_OUTPUTS, Archive, open_archive


class Casting(nn.Module):
    """Says float32 wherever a module can."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.scale = torch.tensor([0.1, 0.2, 0.3, 0.4])  # neither a parameter nor a buffer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x).float() * self.scale.to(torch.float32)
        z = torch.zeros(y.shape, dtype=torch.float32) + torch.tensor(0.75, dtype=torch.float32)
        z += y
        return (z / 3 + torch.arange(4) / 7).type(torch.float32)


def casting() -> nn.Module:
    return zoo.seeded(Casting())


def compiled() -> nn.Module:
    with pytest.warns(zoo.TORCHSCRIPT_NOTICE):
        return torch.jit.script(casting())


def casting_in_float64(x: Tensor) -> Tensor:
    module = casting()
    layer, scale = module.layer.double(), module.scale.double()
    with torch.no_grad():
        y: Tensor = layer(x.double()) * scale  # type: ignore[operator]
        return (0.75 + y) / 3 + torch.arange(4).double() / 7


@pytest.mark.parametrize("factory", [casting, compiled])
def test_no_cast_inside_a_module_rounds(factory: Callable[[], nn.Module], tmp_path: Path) -> None:
    export(zoo.target(factory, zoo.rows), tmp_path / "a.pt")
    archive = open_archive(tmp_path / "a.pt")
    assert list(archive.float64_outputs) == list(range(len(archive.golden)))
    for number, case in enumerate(archive.golden):
        (found,) = archive.float64_outputs[number]
        assert torch.equal(found.outputs["output"], casting_in_float64(case.steps[0].inputs["x"]))
        assert not torch.equal(found.outputs["output"], case.steps[0].outputs["output"].double())


def test_the_state_is_carried_in_float64(tmp_path: Path) -> None:
    archive = export(zoo.accumulator_target(), tmp_path / "a.pt")
    layer = zoo.accumulator().double().get_submodule("layer")
    recurrent = {number for number, case in enumerate(archive.golden) if len(case.steps) == 3}
    assert recurrent
    for number in recurrent:
        steps = archive.golden[number].steps
        total = steps[0].inputs.get("total", torch.zeros(len(steps[0].inputs["x"]), 4)).double()
        for step, found in zip(steps, archive.float64_outputs[number], strict=True):
            with torch.no_grad():
                total = torch.tanh(total * 0.5 + layer(step.inputs["x"].double()))
            assert torch.equal(found.outputs["total"], total)
            assert torch.equal(found.outputs["y"], total * 2)


class Scaling(nn.Module):
    """Computes in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16) * 3 / 7


def scaling() -> nn.Module:
    return Scaling().eval()


def test_lower_precisions_are_doubled_too(tmp_path: Path) -> None:
    archive = export(zoo.target(scaling, zoo.rows), tmp_path / "a.pt")
    step = archive.golden[0].steps[0]
    assert step.outputs["output"].dtype == torch.bfloat16
    expected = step.inputs["x"].double() * 3 / 7
    assert torch.equal(archive.float64_outputs[0][0].outputs["output"], expected)


class Checking(zoo.Linear):
    """Takes nothing but float32."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError("expected float32")
        return self.layer(x)  # type: ignore[no-any-return]


class Writing(zoo.Linear):
    """Uses a tensor of its own as a scratch pad."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = torch.zeros(4)

    def forward(self, x: Tensor) -> Tensor:
        self.pad.add_(1.0)
        y: Tensor = self.layer(x) + self.pad
        self.pad.zero_()
        return y


class Deciding(nn.Module):
    """Decides otherwise in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y: Tensor = self.layer(x)
        return y, (y + 1e-12 > y).long()


class Without(zoo.Linear):
    """Has no floating outputs."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.argmax(self.layer(x), 1)


class Precise(zoo.Linear):
    """Computes in float64 anyway."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x.float()).double()
        return y


def checking() -> nn.Module:
    return zoo.seeded(Checking())


def writing() -> nn.Module:
    return zoo.seeded(Writing())


def deciding() -> nn.Module:
    return zoo.seeded(Deciding())


def without() -> nn.Module:
    return zoo.seeded(Without())


def precise() -> nn.Module:
    return zoo.seeded(Precise())


def uncopyable() -> nn.Module:
    module = zoo.linear()
    module.lock = _Uncopyable()  # type: ignore[assignment]
    return module


class _Uncopyable:
    def __deepcopy__(self, memo: object) -> object:
        raise RuntimeError("cannot be copied")


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        (checking, "no float64 outputs of 'batch 1': ModelError: "),
        (writing, "add_.Tensor writes to a tensor of torch.float32"),
        (deciding, "'batch 1': step 0, output 'output.1': 4 of 4 values differ"),
        (uncopyable, "no float64 outputs: RuntimeError: cannot be copied"),
        (without, None),
        (precise, None),
    ],
)
def test_modules_without_float64_outputs(
    factory: Callable[[], nn.Module],
    reason: str | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    archive = export(zoo.target(factory, zoo.rows), tmp_path / "a.pt")
    assert archive.float64_outputs == {}
    assert FLOAT64_OUTPUTS not in archive.sizes
    if reason is None:
        assert "no float64 outputs" not in caplog.text
    else:
        assert reason in caplog.text


def test_the_users_module_and_process_stay_as_they_were(tmp_path: Path) -> None:
    module = zoo.linear()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    archive = export(zoo.target(zoo.linear, zoo.rows), tmp_path / "a.pt")
    assert float64_outputs(archive.require_manifest(), module, archive.golden)
    for name, tensor in module.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])
    assert torch.get_default_dtype() == torch.float32


def test_large_weights_are_not_copied(tmp_path: Path) -> None:
    archive = export(zoo.target(zoo.linear, zoo.rows), tmp_path / "a.pt")
    manifest, module = archive.require_manifest(), zoo.linear()
    weights = sum(tensor.nbytes for tensor in module.parameters())
    module.register_buffer("table", torch.zeros(MAX_WEIGHTS - weights, dtype=torch.uint8))
    assert float64_outputs(manifest, module, archive.golden)
    module.register_buffer("table", torch.zeros(MAX_WEIGHTS - weights + 1, dtype=torch.uint8))
    assert float64_outputs(manifest, module, archive.golden) == {}


def test_a_second_export_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        export(zoo.accumulator_target(), tmp_path / "a.pt").records[FLOAT64_OUTPUTS]
        for _ in range(2)
    )
    assert first == second


def test_float64_outputs_are_read_from_the_archive(tmp_path: Path) -> None:
    def opened() -> Archive:
        return open_archive(tmp_path / "a.pt")

    export(zoo.target(zoo.linear, zoo.rows), tmp_path / "a.pt")
    assert FLOAT64_OUTPUTS in opened().require_manifest().records
    assert len(opened().float64_outputs) == len(opened().golden)

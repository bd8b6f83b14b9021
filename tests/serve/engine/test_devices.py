"""Where models run. No GPU is needed: a device without one shows what is moved where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from torchship.script.errors import UsageError
from torchship.script.format.manifest import Argument, Manifest, Method, Source, Tolerance
from torchship.script.format.nodes import TensorNode
from torchship.script.runtime.program import Program
from torchship.serve.engine.devices import read_placement
from torchship.serve.process.supervisor import run
from torchship.serve.settings import Settings


def test_a_model_runs_where_it_was_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    placement = read_placement("cpu", ["moba=cuda:1", "other=cuda"])
    assert [placement.of(name) for name in ("moba", "other", "more")] == ["cuda:1", "cuda", "cpu"]
    assert not torch.backends.cudnn.allow_tf32
    with pytest.raises(UsageError, match="--device: torch has no 'cuda:2': it sees 2 CUDA devices"):
        read_placement("cuda:2", [])


@pytest.mark.parametrize(
    ("device", "place", "message"),
    [
        ("gpu", [], "--device: expected cpu, cuda or cuda:NUMBER, got 'gpu'"),
        ("cpu", ["moba"], "--place: expected NAME=DEVICE, got 'moba'"),
        ("cpu", ["=cpu"], "--place: expected NAME=DEVICE, got '=cpu'"),
        ("cpu", ["moba=cpu:"], "--place: model 'moba': expected cpu, .*, got 'cpu:'"),
        ("cuda:0", [], "--device: torch has no 'cuda:0': it sees no CUDA device on this machine"),
        ("cpu", ["moba=cuda"], "--place: model 'moba': torch has no 'cuda'"),
        ("cpu", ["a=cpu", "a=cuda"], "--place: model 'a' has two devices: cpu, cuda"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    device: str, place: Sequence[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=message):
        read_placement(device, place)


def test_the_server_does_not_begin_without_the_device(
    archives: dict[str, Path], own_log: None
) -> None:
    for said in (Settings(device="cuda:999"), Settings(place=("half=cuda:999",))):
        with pytest.raises(UsageError, match="torch has no 'cuda:999'"):
            run(said.model_copy(update={"paths": (archives["half"],), "port": 0}))


class Where(nn.Module):
    """Remembers on which device its input was; gives an answer on the CPU."""

    seen = ""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.device.type
        return torch.ones(2)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_inputs_go_to_the_device_of_the_model(device: str) -> None:
    x, y = (TensorNode(name=name, dtype="float32", shape=(2,)) for name in "xy")
    argument = Argument(name="x", required=True, value=x)
    method = Method(
        inputs=(argument,), outputs=y, state=(), tolerances={"y": Tolerance(atol=0, rtol=0)}
    )
    manifest = Manifest(
        name="where",
        version="1",
        source=Source(factory="a:b"),
        torch=torch.__version__,
        mode="script",
        parameters=0,
        methods={"forward": method},
        golden=(),
    )
    module = Where()
    outputs = Program(manifest, module, device).call("forward", {"x": torch.zeros(2)})
    assert module.seen == device
    assert outputs["y"].device.type == "cpu"

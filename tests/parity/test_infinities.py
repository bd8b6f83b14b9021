"""Infinities that are meant: masks of attention, as a buffer, a constant, a weight, an input."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from torchship.agreement import all_runtimes, verify_archive
from torchship.script.exporting.export import Options, export

LENGTH = 6
NEGATIVE = -math.inf


class Attention(nn.Module):
    """Causal attention of one head; x: float32[batch,6,4]."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)

    def scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.qkv(x).chunk(3, 2)
        return q @ k.transpose(1, 2), v

    def forward(self, x: Tensor) -> Tensor:
        scores, v = self.scores(x)
        return torch.softmax(scores + self.mask, 2) @ v


def causal() -> Tensor:
    return torch.full((LENGTH, LENGTH), NEGATIVE).triu(1)


def with_a_buffer() -> nn.Module:
    module = Attention()
    module.register_buffer("mask", causal())
    return zoo.seeded(module)


def with_a_buffer_that_is_not_saved() -> nn.Module:
    module = Attention()
    module.register_buffer("mask", causal(), persistent=False)
    return zoo.seeded(module)


def with_a_plain_tensor() -> nn.Module:
    module = zoo.seeded(Attention())
    module.mask = causal()
    return module


def with_an_untrained_parameter() -> nn.Module:
    module = zoo.seeded(Attention())
    module.mask = nn.Parameter(causal(), requires_grad=False)
    return module


class Filling(Attention):
    """The infinity is a constant of the code, and one of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1))
        self.least = NEGATIVE

    def forward(self, x: Tensor) -> Tensor:
        scores, v = self.scores(x)
        scores = scores.masked_fill(self.mask, float("-inf"))
        scores = torch.maximum(scores, torch.full_like(scores, self.least))
        return torch.softmax(scores, 2) @ v


def with_constants() -> nn.Module:
    return zoo.seeded(Filling())


class Given(Attention):
    """The mask is an input: float32[batch,6,6]; the masked scores are an output."""

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        scores, v = self.scores(x)
        scores = scores + mask
        return torch.softmax(scores, 2) @ v, scores


def with_an_input() -> nn.Module:
    return zoo.seeded(Given())


def rows(n: int) -> dict[str, object]:
    return {"x": zoo.noise(n, n, LENGTH, 4)}


@pytest.mark.parametrize(
    ("factory", "mode"),
    [
        (with_a_buffer, "script"),
        (with_a_buffer, "trace"),
        (with_a_buffer_that_is_not_saved, "script"),
        (with_a_plain_tensor, "script"),
        (with_a_plain_tensor, "trace"),
        (with_an_untrained_parameter, "script"),
        (with_constants, "script"),
        (with_constants, "trace"),
    ],
)
def test_infinities_of_a_module_ship(
    factory: Callable[[], nn.Module], mode: str, tmp_path: Path
) -> None:
    options = Options(mode="trace" if mode == "trace" else "script")
    archive = export(zoo.target(factory, [rows(2), rows(3)]), tmp_path / "a.pt", options)
    runtimes = all_runtimes()
    report = verify_archive(archive, [runtimes["script"], runtimes["cpp"]])
    assert report.agreed, report


def test_infinities_agree_over_http_as_well_as_inputs_and_outputs(tmp_path: Path) -> None:
    examples = [rows(n) | {"mask": causal().expand(n, -1, -1).clone()} for n in (2, 3)]
    target = zoo.target(with_an_input, examples, name="given")
    archive = export(target, tmp_path / "given.pt")
    assert bool(torch.isinf(archive.golden[0].steps[0].outputs["output.1"]).any())
    runtimes = all_runtimes()
    report = verify_archive(archive, [runtimes[name] for name in ("script", "cpp", "http")])
    assert report.agreed, report

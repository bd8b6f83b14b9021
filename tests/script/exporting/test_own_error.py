"""LibTorch's own error: the largest of the golden run and of perturbed runs that count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from torchship.script.exporting.export import export
from torchship.script.format.float64_outputs import Float64Step
from torchship.script.format.golden import Step
from torchship.script.runtime.error_bound import largest_error

EPS = torch.finfo(torch.float32).eps


def golden_error(step: Step, found: Float64Step, name: str) -> float:
    return largest_error(step.outputs[name], step.outputs[name], found.outputs[name])


def test_the_error_of_every_step_is_at_least_that_of_the_golden_run(tmp_path: Path) -> None:
    archive = export(zoo.accumulator_target(), tmp_path / "a.pt")
    larger = 0
    for number, steps in archive.float64_outputs.items():
        for step, found in zip(archive.golden[number].steps, steps, strict=True):
            assert found.errors.keys() == found.outputs.keys()
            for name, error in found.errors.items():
                own = golden_error(step, found, name)
                assert own <= error <= own + 100 * EPS
                larger += error > own
    assert larger


class Passing(nn.Module):
    """Returns its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class Amplifying(nn.Module):
    """Amplifies what its first operation rounds, which is exact in the golden run."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 0.5) * 1024 - 1024 * x


class Refusing(nn.Module):
    """Takes nothing but exact sums."""

    def forward(self, x: Tensor) -> Tensor:
        y = x + 0.5
        if bool((y - 0.5 - x).abs().max() > 0):
            raise ValueError("expected an exact sum")
        return y


class Choosing(nn.Module):
    """Another decision for the smallest change."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x + 0.5
        same = y - 0.5 == x
        return same.float() * 7.5, same.long()


def passing() -> nn.Module:
    return Passing().eval()


def amplifying() -> nn.Module:
    return Amplifying().eval()


def refusing() -> nn.Module:
    return Refusing().eval()


def choosing() -> nn.Module:
    return Choosing().eval()


def eighths() -> list[dict[str, Tensor]]:
    """Return inputs of which a sum with 0.5 is exact, and not a whole number."""
    return [{"x": torch.arange(1, 1 + 6 * rows, 2).reshape(rows, 3) / 64} for rows in (2, 3)]


@pytest.mark.parametrize("factory", [refusing, choosing])
def test_runs_that_refuse_or_decide_otherwise_do_not_count(
    factory: Callable[[], nn.Module], tmp_path: Path
) -> None:
    archive = export(zoo.target(factory, eighths()), tmp_path / "a.pt")
    assert archive.float64_outputs
    for (found,) in archive.float64_outputs.values():
        assert set(found.errors.values()) == {0.0}


def test_the_inputs_are_not_perturbed(tmp_path: Path) -> None:
    archive = export(zoo.target(passing, eighths()), tmp_path / "a.pt")
    assert archive.float64_outputs
    for (found,) in archive.float64_outputs.values():
        assert set(found.errors.values()) == {0.0}


def test_perturbed_runs_show_what_the_golden_run_hides(tmp_path: Path) -> None:
    archive = export(zoo.target(amplifying, eighths()), tmp_path / "a.pt")
    assert archive.float64_outputs
    for number, (found,) in archive.float64_outputs.items():
        assert golden_error(archive.golden[number].steps[0], found, "output") == 0.0
        assert 100 * EPS < found.errors["output"] < 10_000 * EPS

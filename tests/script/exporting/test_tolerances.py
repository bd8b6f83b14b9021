"""Tolerances start as the dtype's, and are widened where rounding can cause more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from torchship.script.exporting.export import export
from torchship.script.exporting.target import find_target
from torchship.script.exporting.tolerances import initial, widened


class Cancelling(nn.Module):
    """The difference of two large numbers."""

    def forward(self, x: Tensor) -> Tensor:
        """float32[batch,3] -> about x."""
        large = 1e4 * (x * x + 3)
        return large - 3e4


def cancelling() -> nn.Module:
    return Cancelling().eval()


class Choosing(nn.Module):
    """A step between values that are as good as equal: no tolerance is for the other side."""

    def forward(self, x: Tensor) -> Tensor:
        """float32[batch,3] -> 0 or 1."""
        return (x > 0.3).to(x.dtype)


def choosing() -> nn.Module:
    return Choosing().eval()


def test_well_conditioned_outputs_keep_the_tolerance_of_their_dtype(tmp_path: Path) -> None:
    manifest = export(zoo.target(zoo.linear, zoo.rows), tmp_path / "a.pt").require_manifest()
    for method in manifest.methods.values():
        assert method.tolerances == initial(method.outputs)
    assert widened(manifest) == []


def test_cancellation_widens_a_tolerance_and_is_reported(tmp_path: Path) -> None:
    manifest = export(zoo.target(cancelling, zoo.rows), tmp_path / "a.pt").require_manifest()
    tolerance = manifest.methods["forward"].tolerances["output"]
    assert 1e-3 < tolerance.atol < 1e-1
    assert tolerance.rtol < 1e-2
    (line,) = widened(manifest)
    assert line.startswith("output 'output' of 'forward' is sensitive to rounding")


def test_a_choice_widens_nothing(tmp_path: Path) -> None:
    x = torch.full((2, 3), 0.3)  # the perturbed one is above
    examples = [{"x": x}, {"x": torch.full((3, 3), 0.3)}]
    manifest = export(zoo.target(choosing, examples), tmp_path / "a.pt").require_manifest()
    assert widened(manifest) == []


@pytest.mark.parametrize("name", ["gru"])
def test_what_was_widened_still_tells_wrong_numbers(name: str, tmp_path: Path) -> None:
    manifest = export(find_target(name, None, {}), tmp_path / "a.pt").require_manifest()
    for tolerance in manifest.methods["forward"].tolerances.values():
        assert tolerance.atol <= 1e-3
        assert tolerance.rtol <= 1e-3

"""Patterns from other libraries' modules: they export, or the refusal says what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo
from torchship.script.errors import ExportError
from torchship.script.exporting.export import Options, export


class DenseOrNamed(nn.Module):
    """Takes a union, as graph layers take dense or sparse edges."""

    def forward(self, x: Tensor | str) -> Tensor:
        if isinstance(x, str):
            return torch.zeros(len(x), 2)
        else:
            return x * 2


class Caching(nn.Module):
    """Fills a cache at its first call, as LeViT does with its attention's biases."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.ones(2)
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = self.bias * 3
        return x + self.cache["bias"]


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + 1


class SizedByNumpy(nn.Module):
    """Has a number of numpy's, as a layer sized by `np.prod(space.shape)` has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.layer.in_features = np.int64(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


class Stepping(nn.Module):
    """Counts its steps by a size, so that a trace keeps the size; the tracer warns of nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.stack([x[:, step] for step in range(x.shape[1])], 1)


def dense_or_named() -> nn.Module:
    return DenseOrNamed().eval()


def caching() -> nn.Module:
    return Caching().eval()


def called_once() -> nn.Module:
    module = caching()
    module(torch.zeros(1, 2))
    return module


def counting() -> nn.Module:
    return Counting().eval()


def sized_by_numpy() -> nn.Module:
    return zoo.seeded(SizedByNumpy())


class Lambdas(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return next(map(lambda y: y * 2, [x]))


def lambdas() -> nn.Module:
    return Lambdas().eval()


def pairs(*sizes: tuple[int, int]) -> list[dict[str, object]]:
    return [{"x": zoo.noise(seed, *size)} for seed, size in enumerate(sizes or ((2, 2), (3, 2)))]


def test_of_a_union_the_archive_takes_what_the_examples_give(tmp_path: Path) -> None:
    archive = export(zoo.target(dense_or_named, pairs()), tmp_path / "a.pt")
    x = zoo.noise(7, 4, 2)
    assert torch.equal(archive.program().call("forward", {"x": x})["output"], x * 2)


def test_of_a_union_examples_give_one_kind(tmp_path: Path) -> None:
    given = [*pairs(), {"x": "names"}]
    with pytest.raises(ExportError, match="argument 'x'"):
        export(zoo.target(dense_or_named, given), tmp_path / "a.pt")


def test_a_cache_that_the_first_call_fills_is_filled_in_the_factory(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'cache'.*call the module once in the factory"):
        export(zoo.target(caching, pairs()), tmp_path / "a.pt")


def test_what_every_call_changes_is_state(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'calls'.*take it as an argument and return it"):
        export(zoo.target(counting, pairs()), tmp_path / "a.pt")


def test_a_module_that_was_called_once_is_not_changed_by_a_call(tmp_path: Path) -> None:
    archive = export(zoo.target(called_once, pairs()), tmp_path / "a.pt", Options(mode="trace"))
    assert archive.require_manifest().golden


def test_numbers_of_numpy_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"in_features.*int\(\.\.\.\)"):
        export(zoo.target(sized_by_numpy, pairs()), tmp_path / "a.pt")


def test_what_cannot_be_compiled_may_be_traced_whatever_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"plain loops.*or trace the module \(--mode trace\)"):
        export(zoo.target(lambdas, pairs()), tmp_path / "a.pt")
    assert export(zoo.target(lambdas, pairs()), tmp_path / "a.pt", Options(mode="trace")).golden


def test_a_trace_that_keeps_a_size_says_so(tmp_path: Path) -> None:
    given = pairs((2, 2), (3, 4))
    with pytest.raises(ExportError, match=r"a trace keeps its first example's sizes"):
        export(
            zoo.target(Stepping, given), tmp_path / "a.pt", Options(mode="trace", eval_mode=True)
        )

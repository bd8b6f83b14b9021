"""A trace names the first tensor in which compiled code and TorchScript differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import torchship.agreement
from served import Model, method, needs, noise, once, tensor, write
from torchship.native.cli import write_project
from torchship.native.compiler import compile_archive
from torchship.native.importing.registry import OPERATORS
from torchship.native.running.trace import trace
from torchship.script.runtime.archive import Archive, open_archive


class Steps(torch.nn.Module):
    """Takes a few steps, of which one is in place and one is a view."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        doubled = x * 2
        squashed = torch.sigmoid(doubled)
        turned = squashed.t()
        count = x.shape[0]
        moved = turned + count
        before = moved + 1
        moved.add_(before)
        if count > 100:
            before = moved - 1
        total = moved.sum(dim=0) + before.sum(dim=0)
        return total


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    path = tmp_path_factory.mktemp("steps") / "steps.pt"
    signature = method([needs(tensor("x", "float32", "n", 3))], tensor("y", "float32", "n"))
    cases = [once({"x": noise(2, 3)}), once({"x": noise(4, 3)})]
    write(path, Model(Steps(), {"forward": signature}, cases), "steps")
    return open_archive(path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHSHIP_NATIVE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_tensor_with_a_name_is_compared(archive: Archive, cache: Path) -> None:
    found = trace(archive)
    names = ["doubled", "squashed", "turned", "moved", "before", "before0", "total"]
    assert [entry.name for entry in found] == names
    assert all(entry.agreed for entry in found)
    assert [entry.operator for entry in found][:4] == ["mul", "sigmoid", "t", "add"]
    assert found[1].where.startswith("test_trace.py:")
    assert found[2].shape in [(3, 2), (3, 4)]


@pytest.fixture
def wrong_sigmoid(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the compiler take a sigmoid for a hyperbolic tangent."""

    def translate(importer: Any, node: Any, arguments: list[Any]) -> object:
        return importer.builder.elementwise("tanh", arguments, "float32")

    monkeypatch.setitem(OPERATORS, "aten::sigmoid", translate)
    yield


@pytest.mark.usefixtures("wrong_sigmoid", "cache")
def test_the_first_tensor_that_differs_is_named(archive: Archive) -> None:
    done = CliRunner().invoke(
        torchship.agreement.app, [str(archive.path), "--runtime", "native", "--trace"]
    )
    assert done.exit_code == 1
    line = next(line for line in done.output.splitlines() if "first tensor" in line)
    assert "first tensor that differs: squashed = sigmoid in test_trace.py:" in line


def test_a_trace_needs_compiled_code(archive: Archive) -> None:
    done = CliRunner().invoke(
        torchship.agreement.app, [str(archive.path), "--runtime", "script", "--trace"]
    )
    assert str(done.exception) == "--trace looks into compiled C: add --runtime native"


def test_the_header_says_where_a_tensor_comes_from(archive: Archive, tmp_path: Path) -> None:
    folder = write_project(compile_archive(archive, trace=True), tmp_path / "code")
    header = (folder / "steps.h").read_text()
    assert "float *trace_squashed; /* float32[n, 3]; test_trace.py:" in header
    assert "sigmoid */" in header
    assert "selftest" not in header

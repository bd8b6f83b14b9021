"""Imports and factories that change process-wide settings do not change the archive."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from torchship.cpp_runner.runtime import CppRuntime
from torchship.script.errors import ExportError
from torchship.script.exporting.export import export
from torchship.script.exporting.runtimes import ScriptRuntime
from torchship.script.runtime import process_defaults


@pytest.fixture(autouse=True)
def the_process_as_it_was() -> Iterator[None]:
    with process_defaults.torch_defaults():
        yield


class Sensitive(nn.Module):
    """Depends on the default dtype, and on denormal numbers: x + [0, 1/3, 2/3, 1], and x again."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, dtype=torch.float32)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tiny = x * 1e-30 * 1e-10
        return self.layer(x) + torch.linspace(0, 1, 4), tiny * 1e10 * 1e30


def rows() -> list[dict[str, object]]:
    return [{"x": zoo.noise(n, n, 4)} for n in (2, 3)]


def use_bfloat16_for_products() -> None:
    torch.set_float32_matmul_precision("medium")


CHANGES: dict[str, Callable[[], object]] = {
    "default dtype is torch.float64 (torch's own: torch.float32)": lambda: torch.set_default_dtype(
        torch.float64
    ),
    "default device is meta (torch's own: cpu)": lambda: torch.set_default_device("meta"),
    "grad mode is False (torch's own: True)": lambda: torch.set_grad_enabled(False),
    "flush-to-zero of denormals is True (torch's own: False)": lambda: torch.set_flush_denormal(
        True
    ),
    "threads is 3 (torch's own: 1)": lambda: torch.set_num_threads(3),
    "deterministic algorithms is 1 (torch's own: 0)": lambda: torch.use_deterministic_algorithms(
        True, warn_only=True
    ),
    "float32 matmul precision is medium (torch's own: highest)": use_bfloat16_for_products,
    "float32 precision of convolutions is bf16 (torch's own: ieee)": lambda: setattr(
        torch.backends.mkldnn.conv,  # type: ignore[attr-defined]
        "fp32_precision",
        "bf16",
    ),
    "oneDNN is False (torch's own: True)": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "autocast on cpu is True (torch's own: False)": lambda: torch.set_autocast_enabled("cpu", True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_factory_changes_is_named_and_changes_no_number(change: str, tmp_path: Path) -> None:
    def factory() -> nn.Module:
        module = zoo.seeded(Sensitive())
        CHANGES[change]()
        return module

    expected = zoo.seeded(Sensitive())
    told: list[str] = []
    archive = export(zoo.target(factory, rows), tmp_path / "a.pt", tell=told.append)
    (notice,) = told
    assert notice.startswith("this process has other settings than torch's own, by an import or")
    assert change in notice
    assert change in ", ".join(process_defaults.changes()), "it is the caller's process"
    with process_defaults.torch_defaults():
        for case in archive.golden:
            with torch.no_grad():
                y, x = expected(case.steps[0].inputs["x"])
            assert torch.equal(case.steps[0].outputs["output.0"], y)
            assert torch.equal(case.steps[0].outputs["output.1"], x)
            assert bool((x != 0).all())
        assert ScriptRuntime().check(archive).agreed
    assert CppRuntime().check(archive).agreed


class Meddling(Sensitive):
    """Changes the process in each call."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        torch.set_num_threads(2)
        return x, x + 1


def test_a_module_that_changes_the_process_when_it_is_called(tmp_path: Path) -> None:
    def factory() -> nn.Module:
        return Meddling().eval()

    expected = r"calling the module changes the process: threads is 2 \(torch's own: 1\)"
    with pytest.raises(ExportError, match=expected):
        export(zoo.target(factory, rows), tmp_path / "a.pt")


def test_settings_that_are_torch_defaults_are_not_named() -> None:
    assert process_defaults.changes() == []


DOUBLE = """
import torch
from torch import Tensor, nn

torch.set_default_dtype(torch.float64)
torch.set_flush_denormal(True)


class Double(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(x), torch.linspace(0, 1, 4) + x.float() * 1e-30 * 1e-10 * 1e10 * 1e30


def make() -> Double:
    torch.manual_seed(0)
    return Double().eval()


def examples() -> list[dict[str, Tensor]]:
    return [{"x": torch.randn(n, 4)} for n in (2, 3)]
"""


def test_every_runtime_agrees_though_the_import_changes_the_process(tmp_path: Path) -> None:
    (tmp_path / "double.py").write_text(DOUBLE)
    command = ["torchship", "script", "double:make", "--example", "double:examples"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "default dtype is torch.float64 (torch's own: torch.float32)" in done.stderr
    assert "flush-to-zero of denormals is True (torch's own: False)" in done.stderr
    command = ["torchship", "verify", "make.pt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

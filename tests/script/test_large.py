"""Modules with large weights: what it takes to make an archive of one, and which are too large."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import zoo
from torchship.script.errors import ExportError
from torchship.script.exporting.eager import refuse_too_large, same
from torchship.script.exporting.export import export
from torchship.script.runtime.fingerprint import blocks, fingerprint

WEIGHTS = 64 << 20  # bytes

HEAVY = f"""
import atexit
import json
from pathlib import Path

import torch
from torch import Tensor, nn

ROWS = {WEIGHTS} // 256


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class Heavy(nn.Module):
    def __init__(self, tables: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(ROWS // tables, 64) for _ in range(tables))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros(x.shape[0], 64)
        for table in self.tables:
            y = y + table(x)
        return y


def make(tables: int) -> Heavy:
    before = peak()

    def tell() -> None:
        Path("memory.json").write_text(json.dumps([before, peak()]))

    atexit.register(tell)
    return Heavy(tables).eval()


def examples() -> list[dict[str, Tensor]]:
    return [{{"x": torch.arange(n)}} for n in (2, 3)]
"""


@pytest.mark.parametrize(("mode", "tables"), [("script", 1), ("script", 8), ("trace", 8)])
def test_an_export_takes_at_most_three_times_the_memory_of_the_weights(
    mode: str, tables: int, tmp_path: Path
) -> None:
    (tmp_path / "heavy.py").write_text(HEAVY)
    command = ["torchship", "script", "heavy:make", "--example", "heavy:examples", "--mode", mode]
    said = ["--kwarg", f"tables={tables}", "-o", "heavy.pt"]
    subprocess.run([*command, *said], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "heavy.pt").stat().st_size > WEIGHTS
    before, after = json.loads((tmp_path / "memory.json").read_text())
    assert after - before <= 3 * WEIGHTS


class Boundless(nn.Module):
    """Five buffers of 1 GiB, which nobody has touched: they take no memory."""

    def __init__(self) -> None:
        super().__init__()
        for number in range(5):
            self.register_buffer(f"part{number}", torch.empty(1 << 30, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def boundless() -> nn.Module:
    return Boundless().eval()


def test_weights_above_the_archives_limit_are_refused_before_they_are_looked_at(
    tmp_path: Path,
) -> None:
    expected = f"tensors have {5 << 30} bytes: an archive's limit is {4 << 30} bytes \\(4 GiB\\)"
    with pytest.raises(ExportError, match=expected):
        export(zoo.target(boundless, zoo.rows), tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


def test_memory_that_tensors_share_counts_once() -> None:
    module = nn.Linear(8, 8, bias=False)
    module.tied = module.weight
    module.view = module.weight.detach()[:2]
    module.__dict__["parts"] = [module.weight.detach().T]
    refuse_too_large(module, 8 * 8 * 4)
    with pytest.raises(ExportError, match="256 bytes"):
        refuse_too_large(module, 8 * 8 * 4 - 1)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.0),
        torch.zeros(0, 3),
        torch.zeros(3, 0).T,
        torch.arange(12).view(3, 4).T,
        torch.arange(6.0).view(2, 3)[:, 1:2].expand(2, 5),
        torch.arange(3 << 20).view(1, 3, 1 << 20).transpose(1, 2),
        torch.arange(3 << 20).view(1, 3 << 20).expand(2, -1).T,
    ],
    ids=lambda tensor: str((*tensor.shape, *tensor.stride())),
)
def test_blocks_are_the_elements_in_order(tensor: Tensor) -> None:
    assert torch.equal(torch.cat(list(blocks(tensor))), tensor.reshape(-1))
    assert max(block.numel() for block in blocks(tensor)) <= 1 << 20


def test_fingerprints_tell_what_has_changed() -> None:
    weight = zoo.noise(1, 4, 3)
    values: list[object] = [
        *(weight, weight + 1, weight.T, weight.view(3, 4), weight.double(), weight.bfloat16()),
        *(
            weight.to_sparse(),
            weight.to(torch.float8_e4m3fn),
            torch.tensor([1 + 2j]),
            torch.tensor([1 + 2j]).conj(),
        ),
        *([weight], (weight,), {"a": weight}, None, 3, "text"),
    ]
    for number, value in enumerate(values):
        for other, another in enumerate(values):
            assert same(fingerprint(value), fingerprint(another)) is (number == other)

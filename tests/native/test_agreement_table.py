"""The table of docs/agreement.md, and what it is computed from."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from torchship.models import registry
from torchship.script.runtime.error_bound import allowed_share

ROOT = Path(__file__).resolve().parents[2]


def test_every_model_is_in_the_table_and_within_its_bound() -> None:
    page = (ROOT / "docs" / "agreement.md").read_text()
    rows = re.findall(r"^\| ([\w-]+) \| `[\w.]+` \|.*\| (\d+)% \|.*\| (\d+)% \|$", page, re.M)
    assert sorted(name for name, _, _ in rows) == sorted(registry.names())
    assert all(int(share) <= 100 for _, *shares in rows for share in shares)


def test_the_share_of_the_allowed_error() -> None:
    golden = torch.tensor([1.0, 2.0, float("inf")])
    exact = golden.double() + torch.tensor([0.25, 0.0, 0.0])
    actual = torch.tensor([2.25, 2.5, 0.0])  # errors of 1, of 0.5, and one that does not count
    assert abs(allowed_share(actual, golden, exact, own=0.5) - 1.0) < 1e-6
    assert allowed_share(golden, golden, golden.double(), own=0.5) == 0.0
    assert allowed_share(torch.empty(0), torch.empty(0), torch.empty(0).double(), own=0.5) == 0.0

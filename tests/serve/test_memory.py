"""What a server's memory has of an archive: its weights, once it is live."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import served

WEIGHTS = 48 << 20  # bytes


class Large(torch.nn.Module):
    """x: float32[batch,1] -> float32[batch,1]; has 48 MiB of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ParameterList(torch.ones(WEIGHTS // 16) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x * layer.mean()
        return x


def memory(server: Any, what: str) -> int:
    """The bytes of a server's largest process, as the system says them."""
    found = []
    for worker in server.workers():
        lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith(what)]
    return max(found)


def test_an_archive_is_in_memory_once(
    launch: Callable[..., Any],
    make_archive: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y = (served.tensor(name, "float32", "batch", 1) for name in "xy")
    signature = served.method([served.needs(x)], y)
    cases = [served.once({"x": torch.ones(2, 1)})]
    monkeypatch.setitem(
        served.MORE, "large", lambda: served.Model(Large(), {"forward": signature}, cases)
    )
    large, small = make_archive("large"), make_archive("held")
    sizes = {}
    for file in (small, large):
        with launch("--max-batch", 1, file) as server:
            assert server.line().startswith("ready: ")
            sizes[file] = memory(server, "VmRSS:"), memory(server, "VmHWM:")
    resident, peak = (sizes[large][n] - sizes[small][n] for n in range(2))
    assert resident < 1.5 * WEIGHTS
    assert peak < 2.2 * WEIGHTS

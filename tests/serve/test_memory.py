"""Of a live archive, only one copy of its weights stays in the server's memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import served

WEIGHTS = 48 << 20  # bytes


class Large(torch.nn.Module):
    """x: float32[batch,1] -> float32[batch,1]; has 48 MiB of weights."""

    weights: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.ones(WEIGHTS // 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weights.mean()


def memory(server: Any, what: str) -> int:
    """The bytes of a server's largest process, as the system says them."""
    found = []
    for worker in server.workers():
        lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
        found += [int(line.split()[1]) << 10 for line in lines if line.startswith(what)]
    return max(found)


@pytest.fixture
def large(make_archive: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    x, y = (served.tensor(name, "float32", "batch", 1) for name in "xy")
    signature = served.method([served.needs(x)], y)
    cases = [served.once({"x": torch.ones(2, 1)})]
    monkeypatch.setitem(
        served.MORE, "large", lambda: served.Model(Large(), {"forward": signature}, cases)
    )
    return make_archive("large")


def test_an_archive_is_in_memory_once(
    launch: Callable[..., Any], make_archive: Callable[..., Path], large: Path
) -> None:
    small = make_archive("held")
    sizes = {}
    for file in (small, large):
        with launch("--max-batch", 1, file) as server:
            assert server.line().startswith("ready: ")
            sizes[file] = memory(server, "VmRSS:"), memory(server, "VmHWM:")
    resident, peak = (sizes[large][n] - sizes[small][n] for n in range(2))
    assert resident < 1.5 * WEIGHTS
    assert peak < 2.2 * WEIGHTS


def test_the_weights_of_a_model_that_is_unloaded_are_given_back(
    launch: Callable[..., Any], large: Path
) -> None:
    with launch("--max-batch", 1, "--mode", "explicit", large.parent) as server:
        assert server.line() == "ready: "
        sizes = []
        for what, said in [("load", "live"), ("unload", "unloaded")] * 2:
            path = f"/v2/repository/models/large/{what}"
            assert httpx.post(server.url + path, trust_env=False, timeout=60).status_code == 200
            assert server.line() == f"{said}: large/1"
            sizes.append(memory(server, "VmRSS:"))
        assert sizes[0] - sizes[1] > WEIGHTS / 2
        assert sizes[2] - sizes[3] > WEIGHTS / 2
        assert sizes[3] - sizes[1] < WEIGHTS / 2

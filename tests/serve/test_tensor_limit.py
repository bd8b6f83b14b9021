"""The largest tensor that a client may send."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from torchship.serve.errors import TensorTooLargeError, status_of
from torchship.serve.protocol.tensors import Strings, check_sizes


def test_an_input_over_the_limit_is_refused_by_name() -> None:
    inputs = {"small": torch.zeros(4), "text": Strings((2,), [b"abcdefgh", b"ijklmnop"])}
    check_sizes(inputs, 16)  # type: ignore[arg-type]
    for name in inputs:
        with pytest.raises(TensorTooLargeError) as refused:
            check_sizes({name: inputs[name]}, 15)  # type: ignore[dict-item]
        assert str(refused.value) == f"input '{name}': expected at most 15 bytes, got 16"
        assert status_of(refused.value) == 413


def test_the_server_has_the_limit(launch: Callable[..., Any], archives: dict[str, Path]) -> None:
    def ask(url: str, values: list[int]) -> httpx.Response:
        tensor = {"name": "x", "datatype": "FP32", "shape": [len(values)], "data": values}
        path = f"{url}/v2/models/logarithm/infer"
        return httpx.post(path, json={"inputs": [tensor]}, trust_env=False, timeout=60)

    with launch("--max-tensor-bytes", 8, archives["logarithm"]) as server:
        assert server.line() == "ready: logarithm/1"
        assert ask(server.url, [1, 1]).status_code == 200
        refused = ask(server.url, [1, 1, 1])
        assert refused.status_code == 413
        assert refused.json() == {"error": "input 'x': expected at most 8 bytes, got 12"}

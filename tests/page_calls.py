"""Calls of the page's modules, in node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from torchship.script.format.dtypes import BY_NAME, name_of
from torchship.ui import PAGE


def calls(module: str, function: str, arguments: Sequence[Sequence[object]]) -> list[Any]:
    """Call one function with each list of arguments; an error is `{"error": "..."}`."""
    lines = [
        json.dumps({"module": module, "function": function, "arguments": given})
        for given in arguments
    ]
    done = subprocess.run(
        ["node", str(Path(__file__).parent / "ui" / "call_engine.mjs"), str(PAGE / "ui")],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def call(module: str, function: str, *arguments: object) -> Any:
    """Call a function once."""
    [answer] = calls(module, function, [arguments])
    return answer


def packed(tensor: torch.Tensor) -> dict[str, object]:
    """Return a tensor as an argument."""
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return {"dtype": name_of(tensor.dtype), "shape": [*tensor.shape], "hex": data.hex()}


def unpacked(answer: Any) -> torch.Tensor:
    """Return an answer as a tensor."""
    dtype, data = BY_NAME[answer["dtype"]].torch, bytearray.fromhex(answer["hex"])
    if not data:
        return torch.empty(answer["shape"], dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).view(answer["shape"])

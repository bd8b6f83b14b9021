"""The dtypes of results."""

from __future__ import annotations

from typing import Any

import sympy
import torch

from torchship.native.importing.values import is_tensor
from torchship.native.ir.dtypes import NAMES, TORCH
from torchship.native.ir.program import Scalar


def promoted(*values: Any) -> str:
    """Return the dtype that torch gives to an operation on tensors and numbers."""
    made = [_sample(value) for value in values]
    result = made[0].dtype if isinstance(made[0], torch.Tensor) else None
    state = made[0]
    for other in made[1:]:
        result = torch.result_type(state, other)
        rank = max(getattr(state, "ndim", 0), getattr(other, "ndim", 0))
        state = torch.empty([1] * rank, dtype=result, device="meta")
    assert result is not None
    return NAMES[result]


def _sample(value: Any) -> Any:
    if is_tensor(value):
        return torch.empty([1] * len(value.shape), dtype=TORCH[value.dtype], device="meta")
    if isinstance(value, sympy.Expr):
        return 1
    if isinstance(value, Scalar):
        return {"int": 1, "float": 1.0, "bool": True}[value.kind]
    return value


def floating(dtype: str) -> str:
    """Return the dtype of a function such as exp of a tensor of `dtype`."""
    return dtype if dtype.startswith("float") else "float32"

"""Casts keep values: what is not marked is equal, or the nearest float; what is marked cannot."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from torchship.score.casts import cast, to_tensor
from torchship.script.format.dtypes import DTYPES

SOURCES = [
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "float32", "float64"),
]
EDGES = [0, 1, -1, 127, 128, 255, 256, 257, 2**24, 2**24 + 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1,
         -(2**63), 2**63, 2**64 - 1]  # fmt: skip


def exact(value: Any) -> Fraction | None:
    """Return a number as it is; None for one that is not finite."""
    number = value.item()
    return Fraction(number) if math.isfinite(number) else None


def numbers(name: str) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    dtype = np.dtype(name)
    elements = hnp.from_dtype(dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        edges = [edge for edge in EDGES if limits.min <= edge <= limits.max]
        elements = elements | st.sampled_from([dtype.type(edge) for edge in edges])
    elif dtype.kind == "f":
        limit = float(np.finfo(dtype).max)
        edges = [dtype.type(edge) for edge in EDGES if abs(edge) <= limit]
        elements = elements | st.sampled_from([*edges, dtype.type(0.5), dtype.type(limit)])
    return hnp.arrays(dtype, st.integers(0, 8), elements=elements)


@pytest.mark.parametrize("target", [dtype.name for dtype in DTYPES])
def test_values_are_kept_or_marked(target: str) -> None:
    @settings(max_examples=60)
    @given(st.sampled_from(SOURCES).flatmap(numbers))
    def check(values: np.ndarray[Any, Any]) -> None:
        source = values.dtype.name
        converted, bad = cast(values, target)
        tensor = to_tensor(converted, target)
        assert tensor.dtype == getattr(torch, target)
        assert bad.shape == values.shape == tuple(tensor.shape)
        for value, result, wrong in zip(values, tensor, bad, strict=True):
            assert bool(wrong) == (not fits(value, source, target)), (value, target)
            if wrong:
                assert result.item() == 0
            elif tensor.is_floating_point() and np.dtype(source).kind == "f":
                nearest = torch.tensor(value.item(), dtype=torch.float64).to(tensor.dtype)
                assert result.isnan() if math.isnan(value) else result == nearest
            else:
                assert Fraction(result.item()) == exact(value)

    check()


def fits(value: Any, source: str, target: str) -> bool:
    """Whether a value may become the target, by exact arithmetic."""
    dtype = getattr(torch, target)
    number = exact(value)
    if dtype.is_floating_point:
        if number is None:
            return True
        rounded = torch.tensor(float(value.item()), dtype=torch.float64).to(dtype).double()
        if np.dtype(source).kind == "f":
            return bool(torch.isfinite(rounded))
        return bool(torch.isfinite(rounded)) and Fraction(rounded.item()) == number
    if number is None or number.denominator != 1:
        return False
    if dtype == torch.bool:
        return number in (0, 1)
    limits = torch.iinfo(dtype)
    return limits.min <= number <= limits.max

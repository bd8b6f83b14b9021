"""Tensors as lists of numbers in C."""

from __future__ import annotations

import numpy as np
import torch

from torchship.native.emitting.writer import double_literal, float_literal, integer_literal

PER_LINE = 8


def array_lines(values: torch.Tensor, dtype: str) -> list[str]:
    """Return the lines between the braces of an array's initialiser."""
    if dtype == "float32":
        texts = _floats(values)
    elif dtype == "float64":
        texts = [double_literal(value) for value in values.tolist()]
    else:
        texts = [integer_literal(int(value)) for value in values.tolist()]
    texts = texts or ["0"]
    lines = [f"{', '.join(texts[at : at + PER_LINE])}," for at in range(0, len(texts), PER_LINE)]
    lines[-1] = lines[-1].removesuffix(",")
    return lines


def _floats(values: torch.Tensor) -> list[str]:
    """Return float32 values as the shortest literals that a C compiler reads back exactly."""
    return [_float(value) for value in values.numpy()]


def _float(value: np.float32) -> str:
    if _needs_exponent(value):
        text = np.format_float_scientific(value, unique=True, trim="-")
    else:
        text = np.format_float_positional(value, unique=True, trim="0")
    return f"{text}f" if _is_decimal(text) else float_literal(float(value))


def _needs_exponent(value: np.float32) -> bool:
    size = abs(float(value))
    return size != 0 and not 1e-4 <= size < 1e7


def _is_decimal(text: str) -> bool:
    return text[-1].isdigit() and ("." in text or "e" in text)

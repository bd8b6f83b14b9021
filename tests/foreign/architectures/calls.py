"""Example calls that architectures of more than one library take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Calls = list[dict[str, Tensor]]


def images(name: str, side: int, channels: int = 3) -> Calls:
    """Return calls with float32[batch, channels, side, side] of three batch sizes."""
    return noise(name, channels, side, side)


def noise(name: str, *sizes: int) -> Calls:
    """Return calls with float32[batch, *sizes] of three batch sizes."""
    g = torch.Generator().manual_seed(0)
    return [{name: torch.randn(batch, *sizes, generator=g)} for batch in (2, 3, 4)]


def pixels(name: str, *sizes: int) -> Calls:
    """Return calls with uint8[batch, *sizes] of three batch sizes."""
    g = torch.Generator().manual_seed(0)
    return [
        {name: torch.randint(0, 256, (batch, *sizes), generator=g, dtype=torch.uint8)}
        for batch in (2, 3, 4)
    ]


def tokens(
    name: str, vocabulary: int, shapes: Sequence[tuple[int, int]] = ((2, 7), (3, 9), (4, 11))
) -> Calls:
    """Return a call with int64[batch, time] for each shape."""
    g = torch.Generator().manual_seed(0)
    return [{name: torch.randint(1, vocabulary, shape, generator=g)} for shape in shapes]

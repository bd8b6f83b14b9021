"""Weights in the order in which the kernels read them; packed once, when the C is written."""

from __future__ import annotations

import torch

PANEL = 32
HALF = 16


def padded(outputs: int) -> int:
    """Return the number of columns that `outputs` have in a packed matrix."""
    return -(-outputs // HALF) * HALF


def pack_columns(matrix: torch.Tensor) -> torch.Tensor:
    """Return float32[k, n] in panels of 32 columns, flat (`kernels/gemm.h`, "Packed weights").

    The last panel is 16 wide if that is enough; missing columns are zeros.
    """
    k, n = matrix.shape
    full = torch.zeros(k, padded(n), dtype=torch.float32)
    full[:, :n] = matrix
    panels = [full[:, start : start + PANEL] for start in range(0, full.shape[1], PANEL)]
    return torch.cat([panel.reshape(-1) for panel in panels]) if panels else torch.zeros(0)


def pad_rows(matrix: torch.Tensor) -> torch.Tensor:
    """Return float32[rows, n] with rows of a multiple of 16 floats, flat, for `ts_gather_sum`."""
    rows, n = matrix.shape
    full = torch.zeros(rows, padded(n), dtype=torch.float32)
    full[:, :n] = matrix
    return full.reshape(-1)

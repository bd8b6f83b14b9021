"""Tensors whose memory says what they are.

A tensor may carry work that is still to be done: a sign to flip, a conjugate to take, zeros that
were never written, a gradient. Torch's own functions see to it; whoever reads the memory does not.
"""

from __future__ import annotations

import torch


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor's values in memory, without a gradient; itself if it is so already."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.is_neg() or tensor.is_conj() or tensor._is_zerotensor():
        tensor = tensor.clone()
    return tensor


def contiguous_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Return a plain copy in row-major order, in memory of its own that the allocator aligned."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)

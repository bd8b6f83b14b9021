"""Plain tensors: those whose memory holds their values.

A tensor may be lazy: a negation or conjugation that is only a flag, zeros that were never written,
a gradient. Torch's own functions handle these; code that reads the memory would not.
"""

from __future__ import annotations

import torch


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return a plain tensor with these values; the tensor itself if it is plain already."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.is_neg() or tensor.is_conj() or tensor._is_zerotensor():
        tensor = tensor.clone()
    return tensor


def contiguous_copy(tensor: torch.Tensor) -> torch.Tensor:
    """Return a plain copy in row-major order, in memory with the allocator's alignment."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)

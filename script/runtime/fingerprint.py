"""Digests of tensors, to compare a module's state at two times without copying it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import Any

import torch

BLOCK = 1 << 20  # elements


def is_dense(tensor: torch.Tensor) -> bool:
    """Return whether a tensor's elements lie in memory: not sparse, quantized or meta."""
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def blocks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a dense tensor's elements in order, as vectors of limited size."""
    tensor = tensor.detach()
    if tensor.is_contiguous():
        yield from torch.split(tensor.view(-1), BLOCK)
        return
    row = max(1, tensor[:1].numel())
    for part in torch.split(tensor, max(1, BLOCK // row)):
        if part.numel() > BLOCK:
            yield from blocks(part[0])
        else:
            yield part.reshape(-1)


def fingerprint(value: Any) -> Any:
    """Return a nested value with each tensor replaced by its digest, for comparison."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), _digest(value)
    if isinstance(value, dict):
        return {key: fingerprint(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [type(value).__name__, *(fingerprint(item) for item in value)]
    return value


def _digest(tensor: torch.Tensor) -> bytes:
    if not is_dense(tensor):
        buffer = io.BytesIO()
        torch.save(tensor.detach(), buffer)
        return hashlib.sha256(buffer.getvalue()).digest()
    sha = hashlib.sha256()
    for block in blocks(tensor):
        plain = block.resolve_conj().resolve_neg().cpu()
        sha.update(plain.view(torch.uint8).numpy().data)
    return sha.digest()

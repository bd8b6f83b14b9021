"""Runs an eager module with the result of each operation perturbed, as another machine might."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch.overrides import TorchFunctionMode

# Rounding errors by which another summation order may change an operation: a sum of K terms changes
# by about sqrt(K) / 2 ULP of its partial sums, of which vector registers and blocks leave a few.
ROUNDINGS = 2


def perturbed(
    value: torch.Tensor, generator: torch.Generator, roundings: float = 1
) -> torch.Tensor:
    """Return the tensor with each floating-point element changed by up to some roundings.

    A rounding is the dtype's epsilon times the element. Whole numbers stay, because they are
    usually counts or indices, not sums.
    """
    if not value.is_floating_point() or value.numel() == 0 or value.layout != torch.strided:
        return value
    noise = torch.rand(value.shape, generator=generator, dtype=torch.float64) * 2 - 1
    scale = roundings * torch.finfo(value.dtype).eps
    off = (value.double() * (1 + scale * noise)).to(value.dtype)
    return torch.where(value == value.round(), value, off)


class Perturbing(TorchFunctionMode):
    """Perturbs the results of torch's functions in the eager module and its layers.

    Views and results of in-place operations share memory with other tensors and stay unchanged.
    """

    def __init__(self, generator: torch.Generator, roundings: float = 1) -> None:
        """Draw from the generator; `roundings` is the largest change, as in `perturbed`."""
        super().__init__()
        self._generator = generator
        self._roundings = roundings

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        arguments: Sequence[object] = (),
        keywords: Mapping[str, object] | None = None,
    ) -> object:
        result = function(*arguments, **(keywords or {}))
        places = {
            value.untyped_storage().data_ptr()
            for value in (*arguments, *(keywords or {}).values())
            if isinstance(value, torch.Tensor) and value.layout == torch.strided
        }
        return self._perturbed(result, places)

    def _perturbed(self, result: object, places: Collection[int]) -> object:
        if isinstance(result, torch.Tensor):
            strided = result.layout == torch.strided
            if strided and result.untyped_storage().data_ptr() not in places:
                return perturbed(result, self._generator, self._roundings)
        elif type(result) is tuple:
            return tuple(self._perturbed(part, places) for part in result)
        return result

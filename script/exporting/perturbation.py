"""Runs an eager module with the result of each operation perturbed, as another machine might."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch.overrides import TorchFunctionMode

# Rounding errors by which another summation order may change an operation: a sum of K terms changes
# by about sqrt(K) / 2 ULP of its partial sums, of which vector registers and blocks leave a few.
ROUNDINGS = 2


# Functions whose results are sums of products. Where large terms cancel, another order of such a
# sum changes it by more than roundings of the result, as if the operands had been rounded.
PRODUCTS = {
    "linear",
    "bilinear",
    "matmul",
    "mm",
    "bmm",
    "mv",
    "dot",
    "addmm",
    "baddbmm",
    "addmv",
    "addbmm",
    "einsum",
    "tensordot",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "__matmul__",
    "__rmatmul__",
    "scaled_dot_product_attention",
}


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
    With `operands`, those of sums of products are perturbed by up to one rounding too.
    """

    def __init__(
        self, generator: torch.Generator, roundings: float = 1, operands: bool = False
    ) -> None:
        """Draw from the generator; `roundings` is the largest change, as in `perturbed`."""
        super().__init__()
        self._generator = generator
        self._roundings = roundings
        self._operands = operands

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        arguments: Sequence[object] = (),
        keywords: Mapping[str, object] | None = None,
    ) -> object:
        given = dict(keywords or {})
        if self._operands and getattr(function, "__name__", "") in PRODUCTS:
            result = function(
                *(self._operand(value) for value in arguments),
                **{name: self._operand(value) for name, value in given.items()},
            )
        else:
            result = function(*arguments, **given)
        places = {
            value.untyped_storage().data_ptr()
            for value in (*arguments, *given.values())
            if isinstance(value, torch.Tensor) and value.layout == torch.strided
        }
        return self._perturbed(result, places)

    def _operand(self, value: object) -> object:
        return perturbed(value, self._generator) if isinstance(value, torch.Tensor) else value

    def _perturbed(self, result: object, places: Collection[int]) -> object:
        if isinstance(result, torch.Tensor):
            strided = result.layout == torch.strided
            if strided and result.untyped_storage().data_ptr() not in places:
                return perturbed(result, self._generator, self._roundings)
        elif type(result) is tuple:
            return tuple(self._perturbed(part, places) for part in result)
        return result

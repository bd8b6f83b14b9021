"""Tensors and weights from seeds. Nothing is drawn from torch's global generator."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def normal(seed: int, *shape: int, scale: float = 0.5) -> Tensor:
    """Return float32[*shape] of signed values, normal with deviation `scale`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def integers(seed: int, bound: int, *shape: int) -> Tensor:
    """Return uint8[*shape], uniform over 0..bound-1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(bound, shape, generator=generator, dtype=torch.uint8)


def with_weights(make: Callable[[], Module], weights: Mapping[str, Tensor]) -> Module:
    """Return `make()` in eval mode, holding exactly `weights`.

    The module is made on the meta device, so that the initial values which its layers would draw
    are not drawn at all.

    Raises:
        RuntimeError: `weights` lacks a tensor, has one too many, or one of another shape.
    """
    with torch.device("meta"):
        module = make()
    module.load_state_dict(dict(weights), assign=True)
    return module.eval()


def seeded(make: Callable[[], Module], seed: int) -> Module:
    """Return `make()` in eval mode with weights drawn from one generator, seeded with `seed`.

    Layout: the parameters in the order of `named_parameters()`, each filled row by row with
    float32 values uniform in (-1, 1) / sqrt(fan-in). A weight's fan-in is the number of its
    entries per output (`weight[0].numel()`); a bias takes that of the weight before it.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        parameters = dict(make().named_parameters())
    weights: dict[str, Tensor] = {}
    fan_in = 1
    for name, parameter in parameters.items():
        if parameter.dim() > 1:
            fan_in = parameter[0].numel()
        uniform = torch.rand(parameter.shape, generator=generator) * 2 - 1
        weights[name] = uniform / fan_in**0.5
    return with_weights(make, weights)

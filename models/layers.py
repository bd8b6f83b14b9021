"""Layers written for the character models. Data is channels last: [batch, length, channel].

Source: Andrej Karpathy, "Building makemore part 5: Building a WaveNet" (lecture, 2022),
https://github.com/karpathy/nn-zero-to-hero.
"""

from typing import Final

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """x @ weight, plus a bias if asked for. The weight is [in, out], as in the lecture."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return float32[..., out] of float32[..., in]."""
        x = x @ self.weight  # [..., out]
        if self.bias is not None:
            x = x + self.bias
        return x


class BatchNorm(nn.Module):
    """Batch normalisation of the last axis: over the rows, and over the length where there is one.

    `nn.BatchNorm1d` takes the channels of three-dimensional data from axis 1. Fed channels-last
    data it normalises something else, and says nothing when length and channels are equal.

    Source: Ioffe and Szegedy, "Batch Normalization" (2015); the variance is unbiased, as in the
    lecture.
    """

    eps: Final[float] = 1e-5
    momentum: Final[float] = 0.1
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(channels))
        self.beta = nn.Parameter(torch.empty(channels))
        self.register_buffer("running_mean", torch.empty(channels))
        self.register_buffer("running_var", torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 of x's shape: [batch, channel] or [batch, length, channel].

        Raises:
            ValueError: `x` has another rank, or, in training mode, a single value per channel,
                which has no variance. (In script: torch.jit.Error, same message.)
        """
        if x.dim() == 2:
            axes = [0]
        elif x.dim() == 3:
            axes = [0, 1]
        else:
            raise ValueError(
                "BatchNorm: expected [batch, channel] or [batch, length, channel], "
                f"got {list(x.shape)}"
            )
        if self.training:
            if x.numel() == x.size(-1):
                raise ValueError(
                    f"BatchNorm in training mode: one value per channel in {list(x.shape)}, "
                    "expected at least two"
                )
            mean, var = x.mean(axes), x.var(axes)  # [channel] each
            self.running_mean.lerp_(mean.detach(), self.momentum)
            self.running_var.lerp_(var.detach(), self.momentum)
        else:
            mean, var = self.running_mean, self.running_var
        return self.gamma * (x - mean) / torch.sqrt(var + self.eps) + self.beta


class Tanh(nn.Module):
    """The hyperbolic tangent."""

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 of x's shape."""
        return torch.tanh(x)


class Embedding(nn.Module):
    """A row of the table for each index."""

    def __init__(self, symbols: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(symbols, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return float32[..., channel] of int64[...]. `weight[x]` would take -1 for the last row.

        Raises:
            IndexError: an index is negative or too large. (In script: torch.jit.Error.)
        """
        return nn.functional.embedding(x, self.weight)


class FlattenConsecutive(nn.Module):
    """Neighbours side by side: [batch, length, c] -> [batch, length / count, c * count].

    A length of 1 that is left disappears: [batch, c * count].
    """

    count: Final[int]

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """Return the neighbours side by side.

        Raises:
            ValueError: the length is no multiple of `count`.
        """
        batch, length, channels = x.shape
        if length % self.count != 0:
            raise ValueError(
                f"FlattenConsecutive({self.count}): length {length} is no multiple of {self.count}"
            )
        if length == self.count:
            return x.reshape(batch, channels * self.count)
        return x.reshape(batch, length // self.count, channels * self.count)


class Sequential(nn.Module):
    """Layers one after the other."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's output."""
        for layer in self.layers:
            x = layer(x)
        return x

"""The modules in the archives that make_artefacts.py writes."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """2 x + 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Return float32[batch, 3]."""
        return x * 2 + 1


class Point(NamedTuple):
    """A NamedTuple argument."""

    left: Tensor
    right: Tensor


class Odd(nn.Module):
    """Takes every kind of argument; each of them changes the result."""

    def forward(
        self,
        pair: tuple[Tensor, Tensor],
        xs: list[Tensor],
        named: dict[str, Tensor],
        point: Point,
        text: str,
        count: int,
        scale: float,
        flag: bool,
        extra: tuple[Tensor, Tensor] | None = None,
        bias: float = 0.5,
    ) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
        """Return a float32 sum, a dict with it, and the list in reverse order."""
        total = pair[0] - pair[1] + point.left * 2 - point.right
        for index, x in enumerate(xs):
            total = total + (index + 1) * x
        for key, value in named.items():
            total = total + len(key) * value
        if extra is not None:
            total = total + 100 * extra[0] - 10 * extra[1]
        total = total * scale + count + bias + len(text)
        if flag:
            total = -total
        reverse: list[Tensor] = []
        for index in range(len(xs)):
            reverse.append(xs[len(xs) - 1 - index])
        return total, {"total": total}, reverse


class Counter(nn.Module):
    """Adds up its inputs: its recurrent state starts as zeros."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the doubled sum and the sum, float32[batch, 2]."""
        h = h + x
        return h * 2, h


class Total(nn.Module):
    """Adds up all rows: its recurrent state has no batch dimension."""

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the sum, float32[2]."""
        return h + x.sum(0)


class Raises(nn.Module):
    """Raises an error for large values."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x, or raise."""
        if float(x.max()) > 10:
            raise ValueError("a value above 10 is forbidden")
        return torch.matmul(x, torch.ones(3, 2))

    @torch.jit.export
    def broken(self, x: Tensor) -> Tensor:
        """Multiply matrices whose sizes do not fit."""
        return torch.matmul(x, torch.ones(4, 2))


def branch(x: Tensor) -> Tensor:
    """Run on one of LibTorch's threads."""
    print("in a branch")
    return x * 2


class Talker(nn.Module):
    """Prints its text and the first byte of it, which may not be UTF-8, and warns."""

    def forward(self, x: Tensor, text: str) -> Tensor:
        """Return 2 x, computed in a branch."""
        print(text)
        print(text[0:1])
        warnings.warn("mind", stacklevel=2)
        future = torch.jit.fork(branch, x)  # type: ignore[no-untyped-call]
        doubled: Tensor = torch.jit.wait(future)  # type: ignore[no-untyped-call]
        return doubled


class Large(nn.Module):
    """16 MB of weights in one tensor, and 16 MB in 50 tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(4_000_000))
        self.many = nn.ParameterList([nn.Parameter(torch.ones(80_000)) for _ in range(50)])

    def forward(self, x: Tensor) -> Tensor:
        """Return x and the sum of each parameter's first value."""
        for weight in self.many:
            x = x + weight[0]
        return x + self.one[0]


class Numbered(nn.Module):
    """A method whose argument no tensor file can hold."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x."""
        return x

    @torch.jit.export
    def pick(self, numbered: dict[int, Tensor]) -> Tensor:
        """Return the tensor with the key 0."""
        return numbered[0]


class Drift(nn.Module):
    """Correct at the first call only, because an attribute counts the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        """Return float32[batch, 3]."""
        self.calls += 1
        return x * 2 + self.calls


class Nan(nn.Module):
    """Returns NaN only."""

    def forward(self, x: Tensor) -> Tensor:
        """Return NaN of x's shape."""
        return x * float("nan")

"""Small modules that strain the program around them: what they return, overwrite and allocate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import zoo
from torchship.script.exporting.target import Target


class Negating(nn.Module):
    """Outputs and state whose sign LibTorch leaves for later."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """float32[batch,1], float32[batch,1] -> -x, -(h + x)."""
        h = h + x
        return torch.complex(x, x).conj().imag, torch.complex(h, h).conj().imag


class Minus(nn.Module):
    """The same, at once."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """float32[batch,1], float32[batch,1] -> -x, -(h + x)."""
        h = h + x
        return -x, -h


def minus() -> nn.Module:
    return Minus().eval()


def minus_target() -> Target:
    return zoo.target(
        minus,
        [{"x": zoo.noise(1, n, 1), "h": zoo.noise(2, n, 1)} for n in (1, 2)],
        "minus",
        outputs={"forward": ["y", "h"]},
        state={"forward": [("h", "h", "zeros")]},
    )


class Handing(nn.Module):
    """Returns what is not its own to give away: its parameter, its input, one tensor twice."""

    def __init__(self) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """float32[batch,3] -> the parameter, x, and 2 x twice."""
        twice = x * 2
        return self.log_std, x, twice, twice


def handing() -> nn.Module:
    return Handing().eval()


def handing_target() -> Target:
    return zoo.target(
        handing, zoo.rows, "handing", outputs={"forward": ["log_std", "x", "twice", "again"]}
    )


class Clamping(nn.Module):
    """Overwrites its input and its state, but only values that no example has."""

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """float32[batch,3], float32[batch,3] -> the clamped values, and the sum so far."""
        x.clamp_(-100, 100)
        h.clamp_(-100, 100)
        return x * 1, h + x


def clamping() -> nn.Module:
    return Clamping().eval()


def clamping_target() -> Target:
    return zoo.target(
        clamping,
        [{"x": zoo.noise(1, n, 3), "h": zoo.noise(2, n, 3)} for n in (2, 3)],
        "clamping",
        outputs={"forward": ["y", "h"]},
        state={"forward": [("h", "h", "zeros")]},
    )


class Allocating(nn.Module):
    """Allocates as many bytes as its input says."""

    def forward(self, x: Tensor) -> Tensor:
        """float32[batch,1] -> x + 1."""
        room = torch.empty(int(float(x.max())), dtype=torch.uint8)
        return x + float(room.dim())


def allocating() -> nn.Module:
    return Allocating().eval()


def allocating_target(size: float = 1.0) -> Target:
    examples = [{"x": torch.full((n, 1), size)} for n in (1, 2)]
    return zoo.target(allocating, examples, "allocating")


class Subnormal(nn.Module):
    """What depends on the floating-point mode: products that are subnormal, and ties."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """float32[batch,16] -> subnormal numbers, a layer's outputs, and 0 / 0 put right."""
        undefined = (x - x) / (x - x)
        return x * 1e-39, self.layer(x), torch.where(undefined.isnan(), x, undefined)


def subnormal() -> nn.Module:
    return zoo.seeded(Subnormal())


def subnormal_target() -> Target:
    examples = [{"x": zoo.noise(n, n, 16)} for n in (2, 3)]
    return zoo.target(subnormal, examples, "subnormal", outputs={"forward": ["small", "y", "same"]})


class Wide(nn.Module):
    """A product and a sum that are large enough for more than one thread."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(512, 512)

    def forward(self, x: Tensor) -> Tensor:
        """float32[batch,512] -> float32[batch,512]."""
        return torch.tanh(self.layer(x)) * 1e-39


def wide() -> nn.Module:
    return zoo.seeded(Wide())


def wide_target() -> Target:
    return zoo.target(wide, [{"x": zoo.noise(n, n, 512)} for n in (2, 257)], "wide")


class Large(nn.Module):
    """64 MB of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1 << 24))

    def forward(self, x: Tensor) -> Tensor:
        """float32[batch,3] -> x times the first weight."""
        return x * self.weight[0]


def large() -> nn.Module:
    return Large().eval()


def large_target() -> Target:
    return zoo.target(large, zoo.rows, "large")


def dense() -> nn.Module:
    return zoo.seeded(nn.Linear(512, 512))


def dense_target() -> Target:
    return zoo.target(dense, [{"input": zoo.noise(n, n, 512)} for n in (2, 257)], "dense")

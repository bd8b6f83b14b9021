"""Our models for other runtimes: the same weights and formulas, without checks of the inputs.

An exporter cannot follow Python that reads a tensor's values, and a runtime that runs without our
checks has less to do. Where a model has no such checks, it is exported as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from torchship.models import registry
from torchship.models.bobnet import PIXELS
from torchship.models.makemore import CONTEXT, Makemore
from torchship.models.moba import HIDDEN, Moba, observation
from torchship.models.names import SYMBOLS
from torchship.models.seeding import integers, normal
from torchship.models.snake_policy import SnakePolicy
from torchship.models.snake_policy import observation as windows


@dataclass(frozen=True)
class Plain:
    """A module that exporters accept, and inputs of any batch size for it, in order."""

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    feed: Callable[[int], tuple[Tensor, ...]]


class PlainMoba(nn.Module):
    """`Moba.forward` without the checks."""

    def __init__(self, checked: Moba) -> None:
        super().__init__()
        self.of = checked

    def forward(self, obs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        of = self.of
        field = obs[:, : -of.extras].reshape(-1, of.side, of.side, of.channels)
        planes = one_hot(field[:, :, :, 0].long(), of.classes).float()  # [batch, 11, 11, 16]
        x = torch.cat([planes, field[:, :, :, 1:].float() / 255], 3)  # [batch, 11, 11, 19]
        x = torch.relu(of.conv1(x.permute(0, 3, 1, 2)))  # [batch, 32, 3, 3]
        x = of.conv2(x).flatten(1)  # [batch, 32]
        y = of.extra(obs[:, -of.extras :].float() / 255)  # [batch, 32]
        x = torch.relu(of.proj(torch.relu(torch.cat([x, y], 1))))  # [batch, 128]
        h, c = of.lstm(x, h, c)  # [batch, 128] each
        return of.actor(h), of.value(h), h, c


class PlainSnake(nn.Module):
    """`SnakePolicy.forward` without the checks."""

    def __init__(self, checked: SnakePolicy) -> None:
        super().__init__()
        self.of = checked

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        eyes = self.of.eyes
        x = one_hot(obs.long(), eyes.tiles).float().permute(0, 3, 1, 2)  # [batch, 8, 11, 11]
        x = torch.relu(eyes.conv1(x))  # [batch, 32, 3, 3]
        x = torch.relu(eyes.conv2(x)).flatten(1)  # [batch, 32]
        x = torch.relu(eyes.proj(x))  # [batch, 128]
        return self.of.actor(x), self.of.value(x)


def of_moba(batch: int) -> tuple[Tensor, ...]:
    """Return observations and states, all rows different."""
    return observation(1, batch), normal(3, batch, HIDDEN), normal(4, batch, HIDDEN)


def plain(name: str) -> Plain:
    """Return the plain form of one of our models.

    Raises:
        KeyError: there is none for a model of this name.
    """
    module = registry.get(name).factory()
    if name == "moba":
        outputs = ("logits", "value", "h_next", "c_next")
        return Plain(PlainMoba(cast(Moba, module)), ("obs", "h", "c"), outputs, of_moba)
    if name == "snake":
        return Plain(PlainSnake(cast(SnakePolicy, module)), ("obs",), ("logits", "value"), of_snake)
    feeds: dict[str, Callable[[int], tuple[Tensor, ...]]] = {
        "bobnet": lambda batch: (integers(1, 256, batch, PIXELS),),
        "fizzbuzz": lambda batch: (normal(1, batch, 10),),
        "wavenet": lambda batch: (integers(1, len(SYMBOLS), batch, CONTEXT).long(),),
    }
    network = cast(Makemore, module).net if name == "wavenet" else module
    return Plain(network, ("x",), ("y",), feeds[name])


def of_snake(batch: int) -> tuple[Tensor, ...]:
    """Return windows of tiles at random."""
    return (windows(1, batch),)

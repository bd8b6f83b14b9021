"""Policies of PufferLib, made for the spaces of an environment."""

from __future__ import annotations

from types import SimpleNamespace

import pufferlib.models
import torch
from calls import Calls, noise, pixels
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from torch import Tensor, nn

OBSERVATIONS = Box(-1, 1, (6,))
HIDDEN = 16


def spaces(observations: Space[object], actions: Space[object]) -> SimpleNamespace:
    """Return what a policy reads of its environment."""
    return SimpleNamespace(
        observation_space=observations,
        single_observation_space=observations,
        single_action_space=actions,
    )


def default() -> nn.Module:
    torch.manual_seed(0)
    policy: nn.Module = pufferlib.models.Default(spaces(OBSERVATIONS, Discrete(4)), HIDDEN)
    return policy.eval()


def several_actions() -> nn.Module:
    torch.manual_seed(0)
    policy: nn.Module = pufferlib.models.Default(
        spaces(OBSERVATIONS, MultiDiscrete([3, 4])), HIDDEN
    )
    return policy.eval()


def continuous() -> nn.Module:
    torch.manual_seed(0)
    policy: nn.Module = pufferlib.models.Default(spaces(OBSERVATIONS, Box(-1, 1, (2,))), HIDDEN)
    return policy.eval()


def recurrent() -> nn.Module:
    torch.manual_seed(0)
    environment = spaces(OBSERVATIONS, Discrete(4))
    body = pufferlib.models.Default(environment, HIDDEN)
    policy: nn.Module = pufferlib.models.LSTMWrapper(environment, body, HIDDEN, HIDDEN)
    return policy.eval()


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"flat_size": 64, "input_size": 32, "hidden_size": 32, "output_size": 32}
    environment = spaces(Box(0, 255, (4, 36, 36)), Discrete(4))
    policy: nn.Module = pufferlib.models.Convolutional(environment, framestack=4, **sizes)
    return policy.eval()


def procgen_resnet() -> nn.Module:
    torch.manual_seed(0)
    environment = spaces(Box(0, 255, (16, 16, 3)), Discrete(4))
    policy: nn.Module = pufferlib.models.ProcgenResnet(environment, 4, HIDDEN)
    return policy.eval()


def observations() -> Calls:
    """float32[batch, 6]."""
    return noise("observations", 6)


def observations_and_state() -> list[dict[str, Tensor | tuple[Tensor, Tensor]]]:
    """float32[batch, 6], and the LSTM's two float32[1, batch, 16]."""
    g = torch.Generator().manual_seed(0)
    return [
        {
            "x": torch.randn(batch, 6, generator=g),
            "state": (
                torch.randn(1, batch, HIDDEN, generator=g),
                torch.randn(1, batch, HIDDEN, generator=g),
            ),
        }
        for batch in (2, 3, 4)
    ]


def stacked_frames() -> Calls:
    """uint8[batch, frames, height, width]."""
    return pixels("observations", 4, 36, 36)


def frames() -> Calls:
    """uint8[batch, height, width, channels]."""
    return pixels("observations", 16, 16, 3)

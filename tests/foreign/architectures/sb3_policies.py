"""Policies of stable-baselines3 and sb3-contrib, and the wrapper that makes one deterministic."""

from __future__ import annotations

import numpy as np
import torch
from calls import Calls, noise, pixels
from gymnasium.spaces import Box, Discrete
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, BasePolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

OBSERVATIONS, ACTIONS, FORCES = Box(-1, 1, (6,)), Discrete(4), Box(-1, 1, (2,))
SCREEN = Box(0, 255, (3, 36, 36), dtype=np.uint8)


def no_learning(_: float) -> float:
    return 0.0


class Deterministic(nn.Module):
    """The action that a policy thinks best, where its own forward draws one."""

    def __init__(self, policy: BasePolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, obs: Tensor) -> Tensor:
        return self.policy._predict(obs, deterministic=True)


def ppo_that_draws() -> nn.Module:
    torch.manual_seed(0)
    return ActorCriticPolicy(OBSERVATIONS, ACTIONS, no_learning).eval()


def ppo() -> nn.Module:
    torch.manual_seed(0)
    return Deterministic(ActorCriticPolicy(OBSERVATIONS, ACTIONS, no_learning)).eval()


def ppo_of_forces() -> nn.Module:
    torch.manual_seed(0)
    return Deterministic(ActorCriticPolicy(OBSERVATIONS, FORCES, no_learning)).eval()


def ppo_of_pixels() -> nn.Module:
    torch.manual_seed(0)
    return Deterministic(ActorCriticCnnPolicy(SCREEN, ACTIONS, no_learning)).eval()


def dqn() -> nn.Module:
    torch.manual_seed(0)
    return DQNPolicy(OBSERVATIONS, ACTIONS, no_learning).q_net.eval()


def qrdqn() -> nn.Module:
    torch.manual_seed(0)
    return QRDQNPolicy(OBSERVATIONS, ACTIONS, no_learning).quantile_net.eval()


def sac() -> nn.Module:
    torch.manual_seed(0)
    return Deterministic(SACPolicy(OBSERVATIONS, FORCES, no_learning, net_arch=[32])).eval()


def td3() -> nn.Module:
    torch.manual_seed(0)
    return TD3Policy(OBSERVATIONS, FORCES, no_learning, net_arch=[32]).actor.eval()


def observations() -> Calls:
    """float32[batch, 6]."""
    return noise("obs", 6)


def screens() -> Calls:
    """uint8[batch, 3, 36, 36]."""
    return pixels("obs", 3, 36, 36)

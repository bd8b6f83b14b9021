"""Stable-Baselines3's PPO on our game, with our network. Needs the extra `train`.

Source: Schulman et al., "Proximal Policy Optimization Algorithms" (2017), as in stable-baselines3
(`PPO`) and sb3-contrib (`RecurrentPPO`). Each agent of each field is one environment of theirs; the
network that sees is our `Eyes`, and their heads and their LSTM have the shapes of ours, so that the
trained weights are taken over as they are.
"""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from torchship.models.errors import NonFiniteError
from torchship.models.snake.game import ACTIONS, SIDE, TILES, Snake
from torchship.models.snake_policy import HIDDEN, Eyes
from torchship.models.training.descent import Recipe
from torchship.models.training.journal import Journal, State


class Agents(VecEnv):
    """All agents of all fields of a game, as environments whose episodes end only by death."""

    def __init__(self, game: Snake) -> None:
        self.game = game
        self._actions = np.zeros(game.agents, dtype=np.int64)
        self._infos: list[dict[str, Any]] = [{} for _ in range(game.agents)]
        super().__init__(
            game.agents,
            spaces.Box(0, TILES - 1, (SIDE, SIDE), np.uint8),
            spaces.Discrete(len(ACTIONS)),
        )

    def reset(self) -> Any:
        """Begin the games of the seed that `seed` was given."""
        return self.game.reset(self._seeds[0] or 0)[0]

    def step_async(self, actions: Any) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Play one step."""
        obs, rewards, died, _, _ = self.game.step(self._actions)
        return obs, rewards, died, self._infos

    def close(self) -> None:
        """Do nothing: nothing is open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the game, once per agent."""
        return [getattr(self.game, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: the agents are rows of one game."""
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> Any:
        """Refuse: the agents are rows of one game."""
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return that no agent is wrapped."""
        return [False] * self.num_envs


class Extractor(BaseFeaturesExtractor):
    """Our `Eyes`, where SB3 looks for them."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space, HIDDEN)
        self.eyes = Eyes()

    def forward(self, obs: Tensor) -> Tensor:
        """Return [batch, 128]; SB3 gives the tiles as float32."""
        features: Tensor = self.eyes(obs.to(torch.uint8))
        return features


def make(
    recipe: Recipe, game: Snake, settings: Mapping[str, Any], recurrent: bool
) -> OnPolicyAlgorithm:
    """Return SB3's algorithm for a recipe: the learning rate falls linearly to zero."""
    policy: dict[str, Any] = {
        "features_extractor_class": Extractor,
        "normalize_images": False,
        "net_arch": [],
    }
    if recurrent:
        policy |= {"lstm_hidden_size": HIDDEN, "shared_lstm": True, "enable_critic_lstm": False}
    algorithm: Any = RecurrentPPO if recurrent else PPO
    made: OnPolicyAlgorithm = algorithm(
        "MlpLstmPolicy" if recurrent else "MlpPolicy",
        Agents(game),
        learning_rate=lambda remaining: recipe.lr * max(0.0, remaining),  # < 0 past `steps`
        batch_size=recipe.batch,
        policy_kwargs=policy,
        seed=recipe.seed,
        device="cpu",
        **settings,
    )
    return made


def weights(algorithm: OnPolicyAlgorithm) -> dict[str, Tensor]:
    """Return what it has learned, under the names of `SnakePolicy` or `SnakeLSTM`."""
    ours = {"features_extractor.": "", "action_net.": "actor.", "value_net.": "value."}
    lstm = {"weight_ih": "ih.weight", "weight_hh": "hh.weight"}
    lstm |= {"bias_ih": "ih.bias", "bias_hh": "hh.bias"}
    ours |= {f"lstm_actor.{theirs}_l0": f"lstm.{name}" for theirs, name in lstm.items()}
    taken = {}
    for name, tensor in algorithm.policy.state_dict().items():
        for theirs, prefix in ours.items():
            if name.startswith(theirs):
                taken[prefix + name.removeprefix(theirs)] = tensor.detach().clone()
    return taken


def learn(recipe: Recipe, journal: Journal, algorithm: OnPolicyAlgorithm) -> None:
    """Train until `recipe.steps` steps of agents have been played, in whole rollouts.

    A resumed training goes on bit for bit as if it had not been interrupted.

    Raises:
        NonFiniteError: the loss or a weight is infinite or NaN; the message names the step.
    """
    algorithm.set_logger(Logger(folder=None, output_formats=[]))
    state = journal.resume()
    if state is not None:
        restore(algorithm, state)
    guard = _BetweenRollouts(recipe, journal)
    try:
        algorithm.learn(
            recipe.steps - algorithm.num_timesteps,
            guard,
            log_interval=recipe.steps + 1,  # never: the journal logs
            reset_num_timesteps=state is None,
        )
    except ValueError as error:
        if "invalid values" in str(error):  # torch's distributions refuse logits that are NaN
            guard.stop()
        raise


class _BetweenRollouts(BaseCallback):
    """Stop at non-finite losses, log, and write checkpoints."""

    def __init__(self, recipe: Recipe, journal: Journal) -> None:
        super().__init__()
        self._recipe, self._journal = recipe, journal
        self._eaten = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.logger.name_to_value:
            self._after_update()
        self._eaten = int(_agents(self.model).game.info()["food"].sum())

    def _on_training_end(self) -> None:
        self._after_update()

    def stop(self) -> NoReturn:
        """Raise NonFiniteError for the step that has been reached."""
        recipe = self._recipe
        raise NonFiniteError(
            f"{recipe.name}: the loss or a weight is not finite at step "
            f"{self.model.num_timesteps} of {recipe.steps} (learning rate {recipe.lr}); "
            "nothing was saved, try a smaller learning rate"
        )

    def _after_update(self) -> None:
        loss = self.logger.name_to_value["train/loss"]
        weights = self.model.policy.parameters()
        if not (math.isfinite(loss) and all(bool(w.isfinite().all()) for w in weights)):
            self.stop()
        assert isinstance(self.model, OnPolicyAlgorithm)
        game = _agents(self.model).game
        values = self.logger.name_to_value
        played = self.model.n_steps * game.agents
        eaten = int(game.info()["food"].sum()) - self._eaten
        self._journal.log(
            self.model.num_timesteps,
            {
                "food per 500 steps": 500 * eaten / played,
                "value loss": float(values["train/value_loss"]),
                "policy loss": float(values["train/policy_gradient_loss"]),
                "entropy": -float(values["train/entropy_loss"]),
            },
        )
        steps, every = self.model.num_timesteps, self._recipe.checkpoint_steps
        if steps // every > (steps - played) // every:
            self._journal.checkpoint(checkpoint(self.model))


def _agents(algorithm: BaseAlgorithm) -> Agents:
    agents = algorithm.get_env()
    assert isinstance(agents, Agents)
    return agents


def checkpoint(algorithm: OnPolicyAlgorithm) -> State:
    """Return all that the next rollout and update depend on."""
    lstm: Any = algorithm._last_lstm_states if isinstance(algorithm, RecurrentPPO) else ()
    game = _agents(algorithm).game.state()
    generator = np.random.get_state(legacy=False)
    assert isinstance(generator, dict)
    return {
        "steps": algorithm.num_timesteps,
        "policy": algorithm.policy.state_dict(),
        "optimizer": algorithm.policy.optimizer.state_dict(),
        "game": {name: torch.from_numpy(array) for name, array in game.items()},
        "starts": torch.from_numpy(np.array(algorithm._last_episode_starts)),
        "lstm": [list(pair) for pair in lstm],  # of the actor, of the critic
        "torch": torch.random.get_rng_state(),
        "numpy": [torch.from_numpy(generator["state"]["key"]), generator["state"]["pos"]],
    }


def restore(algorithm: OnPolicyAlgorithm, state: State) -> None:
    """Put what `checkpoint` returned in place."""
    algorithm.num_timesteps = state["steps"]
    algorithm.policy.load_state_dict(state["policy"])
    algorithm.policy.optimizer.load_state_dict(state["optimizer"])
    game = {name: tensor.numpy() for name, tensor in state["game"].items()}
    algorithm._last_obs = _agents(algorithm).game.restore(game)
    algorithm._last_episode_starts = state["starts"].numpy()
    if isinstance(algorithm, RecurrentPPO):
        actor, critic = (tuple(pair) for pair in state["lstm"])
        algorithm._last_lstm_states = RNNStates(actor, critic)  # type: ignore[assignment]
    torch.random.set_rng_state(state["torch"])
    key, position = state["numpy"]
    np.random.set_state(("MT19937", key.numpy(), position, 0, 0.0))

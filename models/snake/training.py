"""Trains the snake policies, and measures how well a policy plays.

The agents of many fields learn together, one policy for all (self-play): what one of them has
learned, its opponents have too. The reward is the game's own. The training itself is in
`models/snake/ppo.py`, which needs the extra `train`; measuring needs nothing more than playing.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from torchship.models import sampling
from torchship.models.errors import ExtraMissingError
from torchship.models.seeding import with_weights
from torchship.models.snake.game import (
    ACTIONS,
    CORPSE_REWARD,
    DEATH_REWARD,
    FOOD_REWARD,
    Bools,
    Bytes,
    Integers,
    Snake,
)
from torchship.models.snake_policy import HIDDEN, SnakeLSTM, SnakePolicy
from torchship.models.training.descent import Recipe, Trained
from torchship.models.training.journal import Journal

EPISODES = 100
STEPS = 500

Player = Callable[[Bytes, Bools], Integers]
"""A function of observations and deaths in the last step, returning actions of all agents."""


def random_player(seed: int, agents: int) -> Player:
    """Return the policy that takes each of the four actions with the same probability."""
    generator = np.random.default_rng(seed)
    return lambda obs, died: generator.integers(len(ACTIONS), size=agents)


def player(policy: nn.Module, seed: int, agents: int, sample: bool) -> Player:
    """Return a trained policy that plays: by `sample` with keys of `seed`, or by `act`."""
    state = {"h": torch.zeros(agents, HIDDEN), "c": torch.zeros(agents, HIDDEN)}
    state = state if isinstance(policy, SnakeLSTM) else {}
    if sample:
        state["key"] = sampling.keys(seed, agents)
    method = policy.sample if sample else policy.act

    def play(obs: Bytes, died: Bools) -> Integers:
        reset = {"reset": torch.from_numpy(died)} if "h" in state else {}
        with torch.inference_mode():
            result = method(torch.from_numpy(obs), **reset, **state)  # type: ignore[operator]
        actions, *after = result if state else (result,)
        state.update(zip(state, after, strict=True))
        chosen: Integers = actions[:, 0].numpy()
        return chosen

    return play


def measure(
    make_player: Callable[[int], Player], seed: int, episodes: int = EPISODES, steps: int = STEPS
) -> dict[str, float]:
    """Play `episodes` games of the default size side by side; return means per agent and episode.

    Args:
        make_player: number of agents -> who plays all of them.
        seed: of the games; each has its own random numbers.
        episodes: how many games; 16 agents each.
        steps: length of each.

    Returns:
        `food`, `corpses`, `deaths` and `reward`.
    """
    game = Snake(fields=episodes)
    play = make_player(game.agents)
    obs, info = game.reset(seed)
    died: NDArray[np.bool_] = np.ones(game.agents, dtype=np.bool_)
    for _ in range(steps):
        obs, _, died, _, info = game.step(play(obs, died))
    means = {name: float(count.mean()) for name, count in info.items()}
    rewards = {"food": FOOD_REWARD, "corpses": CORPSE_REWARD, "deaths": DEATH_REWARD}
    return means | {"reward": sum(rewards[name] * mean for name, mean in means.items())}


def evaluate(
    policy: nn.Module, seed: int, episodes: int = EPISODES, steps: int = STEPS
) -> dict[str, float]:
    """Return the figures of a policy and of the random one, over the same games."""
    chance = measure(partial(random_player, seed), seed, episodes, steps)
    greedy = measure(partial(player, policy, seed, sample=False), seed, episodes, steps)
    drawn = measure(partial(player, policy, seed, sample=True), seed, episodes, steps)
    best = max(greedy["food"], drawn["food"])
    return {
        "food per 500 steps": greedy["food"],
        "food per 500 steps, sampled": drawn["food"],
        "food per 500 steps, random": chance["food"],
        "times random": best / chance["food"],
        "deaths per 500 steps": greedy["deaths"],
        "deaths per 500 steps, sampled": drawn["deaths"],
        "deaths per 500 steps, random": chance["deaths"],
        "reward per 500 steps": greedy["reward"],
        "reward per 500 steps, sampled": drawn["reward"],
        "reward per 500 steps, random": chance["reward"],
    }


# --- the recipes ---

FIELDS = 32  # of 16 agents each
SETTINGS = {
    "n_steps": 32,
    "n_epochs": 2,
    "gamma": 0.98,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.005,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
}
EVALUATION_SEED = 1_000_000  # far from the seeds of trainings


def fit(recipe: Recipe, journal: Journal) -> Trained:
    """Train the policy of the recipe's name by PPO, then measure it.

    Raises:
        ExtraMissingError: a package of the extra `train` is not installed.
        NonFiniteError: the loss or a weight is infinite or NaN; the message names the step.
    """
    try:
        from torchship.models.snake import ppo as snake_ppo
    except ImportError as error:
        raise ExtraMissingError(
            f'training snake needs more packages ({error}): pip install "torchship[train]"'
        ) from None
    recurrent = recipe.name == "snake-lstm"
    with _global_generators_restored():
        algorithm = snake_ppo.make(recipe, Snake(fields=FIELDS), SETTINGS, recurrent)
        snake_ppo.learn(recipe, journal, algorithm)
    make: Callable[[], nn.Module] = SnakeLSTM if recurrent else SnakePolicy
    model = with_weights(make, snake_ppo.weights(algorithm))
    return Trained(model, evaluate(model, EVALUATION_SEED))


@contextmanager
def _global_generators_restored() -> Iterator[None]:
    """Restore Python's and NumPy's global generators after the block: SB3 seeds and uses them."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


RECIPE = Recipe(
    name="snake",
    seed=0,
    steps=4_000_000,
    lr=0.002,
    batch=2048,
    fit=fit,
    optimizer="Adam, PPO",
    checkpoint_steps=500_000,
)
LSTM_RECIPE = replace(RECIPE, name="snake-lstm")

"""Training of the snake policies, and how well the stored ones play."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchship.models import registry
from torchship.models.errors import ExtraMissingError, NonFiniteError
from torchship.models.sampling import keys
from torchship.models.seeding import with_weights
from torchship.models.snake import training as snake_training
from torchship.models.snake.game import Bools, Bytes, Integers, Snake
from torchship.models.snake.training import (
    LSTM_RECIPE,
    RECIPE,
    SETTINGS,
    evaluate,
    measure,
    player,
    random_player,
)
from torchship.models.snake_policy import SnakeLSTM, SnakePolicy
from torchship.models.training import descent as training
from torchship.models.training.descent import Recipe
from torchship.models.training.journal import Journal

OpenJournal = Callable[[Recipe], Journal]
ROLLOUT = 16 * 32  # agents of one field, steps

both = pytest.mark.parametrize("recipe", [RECIPE, LSTM_RECIPE], ids=lambda recipe: recipe.name)


def small(recipe: Recipe, rollouts: int = 3, **changes: Any) -> Recipe:
    """The recipe on one field, for a few rollouts, with a checkpoint after each."""
    figures = {"steps": rollouts * ROLLOUT, "batch": 128, "checkpoint_steps": ROLLOUT}
    return dataclasses.replace(recipe, **(figures | changes))


@pytest.fixture(autouse=True)
def one_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snake_training, "FIELDS", 1)
    monkeypatch.setattr(
        snake_training, "evaluate", lambda policy, seed: evaluate(policy, seed, 2, 60)
    )


def trained(recipe: Recipe, journal: Journal) -> dict[str, Tensor]:
    with journal:
        return training.run(recipe, journal)[0].model.state_dict()


def equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    assert some.keys() == others.keys()
    return all(torch.equal(tensor, others[name]) for name, tensor in some.items())


@both
def test_our_module_has_the_logits_of_the_trained_policy(recipe: Recipe) -> None:
    """On observations of a real game; the library's LSTM rounds in another order than ours."""
    from torchship.models.snake import ppo as snake_ppo

    recurrent = recipe is LSTM_RECIPE
    algorithm: Any = snake_ppo.make(small(recipe), Snake(), SETTINGS, recurrent)
    with torch.no_grad():
        for parameter in algorithm.policy.parameters():
            parameter.mul_(1.5).add_(0.01)  # biases begin as zeros
    ours = with_weights(SnakeLSTM if recurrent else SnakePolicy, snake_ppo.weights(algorithm))
    game = Snake()
    obs, _ = game.reset(3)
    died = np.ones(16, dtype=np.bool_)
    h = c = torch.zeros(16, 128)
    state = (torch.zeros(1, 16, 128), torch.zeros(1, 16, 128))
    generator = np.random.default_rng(0)
    deaths = 0
    for _ in range(100):
        windows = torch.from_numpy(obs)
        with torch.no_grad():
            if recurrent:
                starts = torch.from_numpy(died).float()
                found, state = algorithm.policy.get_distribution(windows, state, starts)
                theirs = algorithm.policy.predict_values(windows, state, torch.zeros(16))
                logits, _, h, c = ours(windows, torch.from_numpy(died), h, c)
                torch.testing.assert_close(h, state[0][0])
                torch.testing.assert_close(c, state[1][0])
                value = ours(windows, torch.zeros(16, dtype=torch.bool), h, c)[1]
            else:
                found = algorithm.policy.get_distribution(windows)
                theirs = algorithm.policy.predict_values(windows)
                logits, value = ours(windows)
        expected = torch.log_softmax(logits, 1)
        if recurrent:
            torch.testing.assert_close(found.distribution.logits, expected)
            torch.testing.assert_close(theirs, value)
        else:
            torch.testing.assert_close(found.distribution.logits, expected, rtol=0, atol=1e-6)
            assert torch.equal(theirs, value)
        assert float(logits.std()) > 0.01
        obs, _, died, _, _ = game.step(generator.integers(4, size=16))
        deaths += int(died.sum())
    assert deaths > 5


@both
def test_a_training_can_be_repeated_and_leaves_the_generators_alone(
    recipe: Recipe, journal_of: OpenJournal
) -> None:
    recipe = small(recipe, rollouts=2)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()  # type: ignore[index]
    first = trained(recipe, journal_of(recipe))
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()  # type: ignore[index]
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    assert equal(first, trained(recipe, journal_of(recipe)))
    other = dataclasses.replace(recipe, seed=recipe.seed + 1)
    assert not equal(first, trained(other, journal_of(other)))
    assert first.keys() == registry.get(recipe.name).factory().state_dict().keys()


class Interrupted(Exception):
    pass


@both
def test_a_resumed_training_ends_at_the_same_bits(
    recipe: Recipe, journal_of: OpenJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(recipe, rollouts=4)  # of which the last one learns nothing: the rate is 0
    whole = journal_of(recipe)
    expected = trained(recipe, whole)
    interrupted = Journal(recipe.identity, tmp_path)
    log = interrupted.log

    def killed(step: int, *arguments: Any) -> None:
        if step > 2 * ROLLOUT:
            raise Interrupted
        log(step, *arguments)

    monkeypatch.setattr(interrupted, "log", killed)
    with pytest.raises(Interrupted):
        trained(recipe, interrupted)
    resumed = Journal(recipe.identity, tmp_path, resume=True)
    assert equal(expected, trained(recipe, resumed))
    assert resumed.history == whole.history


@both
def test_what_is_logged(recipe: Recipe, journal_of: OpenJournal) -> None:
    recipe = small(recipe, rollouts=2)
    journal = journal_of(recipe)
    trained(recipe, journal)
    assert set(journal.history) == {
        *("food per 500 steps", "value loss", "policy loss", "entropy"),
    }
    for points in journal.history.values():
        assert [step for step, _ in points] == [ROLLOUT, 2 * ROLLOUT]
    assert 0 < journal.history["entropy"][0][1] < np.log(4) + 1e-6
    assert 0 <= journal.history["food per 500 steps"][0][1] < 20


@both
def test_the_learning_rate_falls_training_changes_every_weight_and_food_is_logged(
    recipe: Recipe, journal_of: OpenJournal
) -> None:
    from torchship.models.snake import ppo as snake_ppo

    recipe = small(recipe, rollouts=4)
    recurrent = recipe.name == "snake-lstm"
    game = Snake()
    algorithm = snake_ppo.make(recipe, game, SETTINGS, recurrent)
    before = snake_ppo.weights(algorithm)
    with journal_of(recipe) as journal:
        snake_ppo.learn(recipe, journal, algorithm)
    logged = [food for _, food in journal.history["food per 500 steps"]]
    assert sum(logged) * 32 / 500 == pytest.approx(game.info()["food"].mean())
    after = snake_ppo.weights(algorithm)
    assert not any(torch.equal(tensor, after[name]) for name, tensor in before.items())
    # Each update takes the rate of the steps that are left after its rollout.
    assert algorithm.policy.optimizer.param_groups[0]["lr"] == 0
    assert algorithm.lr_schedule(0.5) == recipe.lr / 2
    assert algorithm.lr_schedule(-0.1) == 0  # in the last rollout, which may go past `steps`


@both
def test_a_loss_that_is_not_finite_stops_the_training(
    recipe: Recipe, journal_of: OpenJournal
) -> None:
    recipe = small(recipe, lr=1e30)
    with pytest.raises(NonFiniteError, match=rf"{recipe.name}: .* at step {ROLLOUT} of 1536"):
        trained(recipe, journal_of(recipe))


def test_a_missing_extra_is_one_message(
    journal_of: OpenJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "torchship.models.snake.ppo", raising=False)
    monkeypatch.delattr("torchship.models.snake.ppo", raising=False)
    recipe = small(RECIPE)
    with pytest.raises(ExtraMissingError, match=r'pip install "torchship\[train\]"'):
        trained(recipe, journal_of(recipe))


def test_scripting_and_playing_need_no_extra() -> None:
    program = """
import sys
for name in ("stable_baselines3", "sb3_contrib", "gymnasium", "matplotlib", "tensorboard"):
    sys.modules[name] = None
import torchship.play
from torchship.models import registry
for name in ("snake", "snake-lstm"):
    registry.get(name).factory(), registry.get(name).metrics(), registry.recipe(name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- measuring ---


def test_measure_counts_what_happens() -> None:
    """Who always goes up eats little and dies at the upper wall, again and again."""
    seen: list[tuple[Bytes, Bools]] = []

    def upwards(agents: int) -> Callable[[Bytes, Bools], Integers]:
        def play(obs: Bytes, died: Bools) -> Integers:
            seen.append((obs, died))
            return np.zeros(agents, dtype=np.int64)

        return play

    means = measure(upwards, 3, episodes=2, steps=100)
    game = Snake(fields=2)
    obs, died = game.reset(3)[0], np.ones(32, dtype=np.bool_)
    rewards: NDArray[np.float64] = np.zeros(32)
    for came_obs, came_died in seen:
        assert np.array_equal(came_obs, obs)
        assert np.array_equal(came_died, died)
        obs, reward, died, _, info = game.step(np.zeros(32, dtype=np.int64))
        rewards += reward
    assert len(seen) == 100
    assert means == {
        "food": info["food"].mean(),
        "corpses": info["corpses"].mean(),
        "deaths": info["deaths"].mean(),
        "reward": pytest.approx(rewards.mean()),
    }
    assert means["deaths"] > 1


def test_the_random_policy_takes_each_action_alike() -> None:
    play = random_player(0, 40_000)
    obs, died = np.zeros((40_000, 11, 11), dtype=np.uint8), np.zeros(40_000, dtype=np.bool_)
    shares = np.bincount(play(obs, died), minlength=4) / 40_000
    np.testing.assert_allclose(shares, 0.25, atol=0.01)
    assert not np.array_equal(play(obs, died), play(obs, died))


@pytest.mark.parametrize("sample", [False, True])
@both
def test_a_player_carries_the_state(recipe: Recipe, sample: bool) -> None:
    policy: Any = registry.get(recipe.name).factory()
    method = policy.sample if sample else policy.act
    play = player(policy, 3, 16, sample)
    game = Snake()
    obs, died = game.reset(4)[0], np.ones(16, dtype=np.bool_)
    h, c, key = torch.zeros(16, 128), torch.zeros(16, 128), keys(3, 16)
    memory = recipe is LSTM_RECIPE
    for _ in range(60):
        state = [*([torch.from_numpy(died), h, c] if memory else []), *([key] if sample else [])]
        with torch.no_grad():
            came = method(torch.from_numpy(obs), *state)
        actions, *rest = came if state else (came,)
        if memory:
            h, c = rest[:2]
        if sample:
            key = rest[-1]
        assert play(obs, died).tolist() == actions[:, 0].tolist()
        obs, _, died, _, _ = game.step(actions[:, 0].numpy())


@both
def test_the_kept_weights_eat_20_times_what_the_random_policy_eats(recipe: Recipe) -> None:
    """Ten games of the policy; a hundred of the random one, whose few bites vary more."""
    policy = registry.get(recipe.name).factory()
    chance = measure(partial(random_player, 5), 5)
    skill = measure(partial(player, policy, 5, sample=False), 5, episodes=10)
    assert skill["food"] >= 20 * chance["food"]
    metrics = registry.get(recipe.name).metrics()
    assert metrics["times random"] >= 20
    assert skill["food"] == pytest.approx(metrics["food per 500 steps"], rel=0.1)
    assert chance["food"] == pytest.approx(metrics["food per 500 steps, random"], rel=0.1)


@both
def test_the_kept_weights_are_those_of_the_recipe(recipe: Recipe) -> None:
    from torchship.models.training import store

    report = store.read_report(recipe.name)
    assert report.command == recipe.command
    assert report.recipe == {
        **{name: figure for name, figure in recipe.identity.items() if name != "name"},
        "optimizer": recipe.optimizer,
    }

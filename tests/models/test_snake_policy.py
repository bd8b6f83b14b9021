"""The two snake policies: against NumPy, and what `reset` and `key` do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchship.models.sampling import advance, keys, uniform
from torchship.models.seeding import normal, seeded
from torchship.models.snake.game import ACTIONS as GAME_ACTIONS
from torchship.models.snake.game import SIDE as GAME_SIDE
from torchship.models.snake.game import TILES as GAME_TILES
from torchship.models.snake_policy import (
    ACTIONS,
    SIDE,
    TILES,
    SnakeLSTM,
    SnakePolicy,
    observation,
)

Script = Callable[[nn.Module], torch.jit.ScriptModule]
Array = NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


class Numpy:
    """The policies in float64, from the description of the network alone."""

    def __init__(self, module: nn.Module) -> None:
        self.w = {name: p.detach().double().numpy() for name, p in module.named_parameters()}

    def linear(self, x: Array, name: str) -> Array:
        product: Array = x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]
        return product

    def conv(self, x: Array, name: str, stride: int) -> Array:
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        kernel = weight.shape[2]
        side = (x.shape[2] - kernel) // stride + 1
        out = np.empty((len(x), len(weight), side, side))
        for i in range(side):
            for j in range(side):
                rows, columns = i * stride, j * stride
                window = x[:, None, :, rows : rows + kernel, columns : columns + kernel]
                out[:, :, i, j] = (window * weight[None]).sum((2, 3, 4)) + bias
        return out

    def eyes(self, obs: NDArray[np.uint8]) -> Array:
        planes = np.zeros((len(obs), 8, 11, 11))
        for b, y, x in np.ndindex(*obs.shape):
            planes[b, obs[b, y, x], y, x] = 1
        x1 = np.maximum(self.conv(planes, "eyes.conv1", 3), 0)
        assert x1.shape[1:] == (32, 3, 3)
        x2 = np.maximum(self.conv(x1, "eyes.conv2", 1), 0)[:, :, 0, 0]
        return np.maximum(self.linear(x2, "eyes.proj"), 0)

    def lstm(self, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        gates = self.linear(x, "lstm.ih") + self.linear(h, "lstm.hh")
        i, f, g, o = (gates[:, 128 * k : 128 * (k + 1)] for k in range(4))
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c


def larger(make: Callable[[], nn.Module]) -> nn.Module:
    """A policy with seeded weights that are large enough for every layer to matter."""
    module = seeded(make, 78)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2.5)
    return module


@pytest.fixture(scope="module")
def reacts() -> nn.Module:
    return larger(SnakePolicy)


@pytest.fixture(scope="module")
def remembers() -> nn.Module:
    return larger(SnakeLSTM)


def none(batch: int) -> Tensor:
    return torch.zeros(batch, dtype=torch.bool)


def test_the_policies_are_made_for_the_game() -> None:
    assert (SIDE, TILES, ACTIONS) == (GAME_SIDE, GAME_TILES, GAME_ACTIONS)


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("scripted", [False, True])
def test_the_policy_that_reacts_agrees_with_numpy(
    reacts: nn.Module, batch: int, scripted: bool, script: Script
) -> None:
    module, reference = (script(reacts) if scripted else reacts), Numpy(reacts)
    obs = observation(40, batch)
    with torch.no_grad():
        logits, value = module(obs)
    x = reference.eyes(obs.numpy())
    np.testing.assert_allclose(logits.numpy(), reference.linear(x, "actor"), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value.numpy(), reference.linear(x, "value"), rtol=1e-4, atol=1e-5)
    assert logits.shape == (batch, 4)
    assert value.shape == (batch, 1)


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("scripted", [False, True])
def test_three_steps_of_the_policy_that_remembers_agree_with_numpy(
    remembers: nn.Module, batch: int, scripted: bool, script: Script
) -> None:
    module, reference = (script(remembers) if scripted else remembers), Numpy(remembers)
    h, c = normal(30, batch, 128), normal(31, batch, 128)
    h_e, c_e = h.double().numpy(), c.double().numpy()
    for step in range(3):
        obs, reset = observation(50 + step, batch), none(batch)
        reset[-1] = step == 1
        with torch.no_grad():
            logits, value, h, c = module(obs, reset, h, c)
        if step == 1:
            h_e[-1], c_e[-1] = 0, 0
        h_e, c_e = reference.lstm(reference.eyes(obs.numpy()), h_e, c_e)
        logits_e, value_e = reference.linear(h_e, "actor"), reference.linear(h_e, "value")
        for came, expected in ((logits, logits_e), (value, value_e), (h, h_e), (c, c_e)):
            np.testing.assert_allclose(came.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("method", ["forward", "act", "sample"])
def test_a_reset_row_remembers_nothing_and_the_others_all(
    remembers: nn.Module, method: str, scripted: bool, script: Script
) -> None:
    module = script(remembers) if scripted else remembers
    obs, h, c = observation(60, 3), normal(61, 3, 128), normal(62, 3, 128)
    c[1] = float("nan")  # not even what is no number
    key = (keys(1, 3),) if method == "sample" else ()
    reset = torch.tensor([False, True, False])
    forgotten = [state.index_fill(0, torch.tensor([1]), 0.0) for state in (h, c)]
    with torch.no_grad():
        came = getattr(module, method)(obs, reset, h, c, *key)
        expected = getattr(module, method)(obs, none(3), *forgotten, *key)
        unlike = getattr(module, method)(obs, none(3), h, c.nan_to_num(3.0), *key)
    assert all(torch.equal(a, b) for a, b in zip(came, expected, strict=True))
    state = 2 if method == "forward" else 1
    assert torch.equal(came[state][[0, 2]], unlike[state][[0, 2]])
    assert not torch.equal(came[state][1], unlike[state][1])


@pytest.mark.parametrize("scripted", [False, True])
def test_act_takes_the_largest_logit(
    reacts: nn.Module, remembers: nn.Module, scripted: bool, script: Script
) -> None:
    obs, h, c = observation(70, 40), normal(71, 40, 128), normal(72, 40, 128)
    for policy, state in ((reacts, ()), (remembers, (none(40), h, c))):
        module: Any = script(policy) if scripted else policy
        with torch.no_grad():
            came, logits = module.act(obs, *state), module(obs, *state)[0]
        actions = came if isinstance(came, Tensor) else came[0]
        assert actions.dtype == torch.int64
        assert actions.shape == (40, 1)
        assert actions[:, 0].tolist() == [row.index(max(row)) for row in logits.tolist()]
        assert len(set(actions[:, 0].tolist())) > 1


@pytest.mark.parametrize("scripted", [False, True])
def test_sample_draws_by_the_row_s_own_key(
    reacts: nn.Module, remembers: nn.Module, scripted: bool, script: Script
) -> None:
    obs, key = observation(80, 50), keys(5, 50)
    state = (none(50), normal(81, 50, 128), normal(82, 50, 128))
    for policy, given in ((reacts, ()), (remembers, state)):
        module: Any = script(policy) if scripted else policy
        with torch.no_grad():
            actions, *_, after = module.sample(obs, *given, key)
            logits = module(obs, *given)[0]
            only = module.sample(obs[7:8], *(tensor[7:8] for tensor in given), key[7:8])[0]
        cumulative = np.cumsum(torch.softmax(logits, 1).double().numpy(), 1)
        u = uniform(key).numpy()
        expected = [
            int(np.searchsorted(row, at, "right")) for row, at in zip(cumulative, u, strict=True)
        ]
        assert actions.dtype == torch.int64
        assert actions.shape == (50, 1)
        assert actions[:, 0].tolist() == expected
        assert len(set(expected)) == 4
        assert torch.equal(after, advance(key))
        assert torch.equal(only, actions[7:8])


def test_samples_have_the_probabilities_of_the_logits(reacts: nn.Module) -> None:
    obs = observation(90, 1).expand(20_000, 11, 11)
    with torch.no_grad():
        actions, _ = reacts.sample(obs, keys(9, 20_000))  # type: ignore[operator]
        expected = torch.softmax(reacts(obs[:1])[0], 1)[0]
    share = torch.bincount(actions[:, 0], minlength=4) / 20_000
    torch.testing.assert_close(share, expected, rtol=0, atol=0.015)


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("method", ["forward", "act", "sample"])
def test_a_wrong_observation_is_named(method: str, scripted: bool, script: Script) -> None:
    error = torch.jit.Error if scripted else ValueError
    good = observation(95, 2)
    wrong = good.clone()
    wrong[1, 10, 10] = 8
    for obs, message in (
        (wrong, "obs: tile must be below 8, got 8"),
        (good.int(), "obs: expected dtype uint8, got another dtype"),
        (good[:, :10], r"obs: expected \[batch, 11, 11\], got \[2, 10, 11\]"),
        (good[:, :, :10], r"obs: expected \[batch, 11, 11\], got \[2, 11, 10\]"),
        (good.flatten(1), r"obs: expected \[batch, 11, 11\], got \[2, 121\]"),
    ):
        for make, state in (
            (SnakePolicy, ()),
            (SnakeLSTM, (none(2), torch.zeros(2, 128), torch.zeros(2, 128))),
        ):
            module = script(make().eval()) if scripted else make().eval()
            key = (keys(0, 2),) if method == "sample" else ()
            with pytest.raises(error, match=message):
                getattr(module, method)(obs, *state, *key)


@pytest.mark.parametrize("scripted", [False, True])
def test_a_reset_that_is_no_bool_is_named(scripted: bool, script: Script) -> None:
    module = script(SnakeLSTM().eval()) if scripted else SnakeLSTM().eval()
    error = torch.jit.Error if scripted else ValueError
    with pytest.raises(error, match="reset: expected dtype bool"):
        module(observation(1, 2), torch.ones(2), torch.zeros(2, 128), torch.zeros(2, 128))


@pytest.mark.parametrize("scripted", [False, True])
def test_no_rows_give_no_rows(
    reacts: nn.Module, remembers: nn.Module, scripted: bool, script: Script
) -> None:
    obs, state = torch.zeros(0, 11, 11).byte(), torch.zeros(0, 128)
    key = torch.zeros(0, dtype=torch.int64)
    module = script(reacts) if scripted else reacts
    assert module.act(obs).shape == (0, 1)  # type: ignore[operator]
    assert module.sample(obs, key)[0].shape == (0, 1)  # type: ignore[operator]
    module = script(remembers) if scripted else remembers
    actions, h, c = module.act(obs, none(0), state, state)  # type: ignore[operator]
    assert actions.shape == (0, 1)
    assert h.shape == c.shape == (0, 128)

"""Two policies that play `models/snake/game.py`: one that reacts, and one that remembers.

Source: the snake policy of PufferLib (Joseph Suarez, stream "Getting RL models out of Python"),
https://github.com/PufferAI/PufferLib. Trained with PPO by `models/snake/training.py`.

Each row of a batch is an agent: what one row gives depends on that row alone. Row for row,

    forward  returns the logits of the four actions (up, down, left, right) and the value;
    act      returns the action with the largest logit;
    sample   draws the action with the probabilities softmax(logits), from a key per agent, and
             returns the next key: a game is a function of its first keys (see `sampling.keys`).
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from torchship.models.card import Card, Example, Step
from torchship.models.moba import LSTMCell
from torchship.models.sampling import advance, categorical, keys, uniform
from torchship.models.seeding import integers, normal, with_weights
from torchship.models.training import store

SIDE = 11
TILES = 8
HIDDEN = 128
ACTIONS = ("up", "down", "left", "right")


class Eyes(nn.Module):
    """What both policies see with: 19,904 parameters."""

    side: Final[int] = SIDE
    tiles: Final[int] = TILES

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(TILES, 32, kernel_size=5, stride=3)
        self.conv2 = nn.Conv2d(32, 32, kernel_size=3)
        self.proj = nn.Linear(32, HIDDEN)

    def forward(self, obs: Tensor) -> Tensor:
        """Return features float32[batch, 128] of the windows uint8[batch, 11, 11].

        Raises:
            ValueError: `obs` has another dtype or shape, or a tile above 7. (In script:
                torch.jit.Error, same message.)
        """
        if obs.dtype != torch.uint8:
            raise ValueError("obs: expected dtype uint8, got another dtype")
        if obs.dim() != 3 or obs.size(1) != self.side or obs.size(2) != self.side:
            raise ValueError(
                f"obs: expected [batch, {self.side}, {self.side}], got {list(obs.shape)}"
            )
        if obs.numel() > 0:
            largest = int(obs.max())
            if largest >= self.tiles:
                raise ValueError(f"obs: tile must be below {self.tiles}, got {largest}")
        x = one_hot(obs.long(), self.tiles).float()  # [batch, 11, 11, 8]
        x = x.permute(0, 3, 1, 2)  # [batch, 8, 11, 11]; no contiguous(), as in moba
        x = torch.relu(self.conv1(x))  # [batch, 32, 3, 3]
        x = torch.relu(self.conv2(x)).flatten(1)  # [batch, 32, 1, 1] -> [batch, 32]
        return torch.relu(self.proj(x))  # [batch, 128]


class SnakePolicy(nn.Module):
    """The policy that reacts: 20,549 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.eyes = Eyes()
        self.actor = nn.Linear(HIDDEN, len(ACTIONS))
        self.value = nn.Linear(HIDDEN, 1)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (logits, value), float32[batch, 4] and [batch, 1], of obs uint8[batch, 11, 11].

        Raises:
            ValueError: as `Eyes.forward`.
        """
        x = self.eyes(obs)  # [batch, 128]
        return self.actor(x), self.value(x)

    @torch.jit.export
    def act(self, obs: Tensor) -> Tensor:
        """Return int64[batch, 1]: the action with the largest logit."""
        logits, _ = self.forward(obs)
        return logits.argmax(1, keepdim=True)

    @torch.jit.export
    def sample(self, obs: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return (actions, key): int64[batch, 1] drawn with each row's key int64[batch], the next.

        Raises:
            ValueError: as `Eyes.forward`.
        """
        logits, _ = self.forward(obs)
        return categorical(logits, uniform(key)).unsqueeze(1), advance(key)


class SnakeLSTM(nn.Module):
    """The policy that remembers: 152,645 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.eyes = Eyes()
        self.lstm = LSTMCell(HIDDEN, HIDDEN)
        self.actor = nn.Linear(HIDDEN, len(ACTIONS))
        self.value = nn.Linear(HIDDEN, 1)

    def forward(
        self, obs: Tensor, reset: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (logits, value, h, c) of one step.

        Args:
            obs: uint8[batch, 11, 11].
            reset: bool[batch], which agents died in the last step: their h and c are taken as
                zeros, for a new snake remembers nothing.
            h: float32[batch, 128], the hidden state; zeros at the start of a game.
            c: float32[batch, 128], the cell state; zeros at the start of a game.

        Returns:
            logits float32[batch, 4], value float32[batch, 1], and h and c, float32[batch, 128]
            each, for the next step.

        Raises:
            ValueError: as `Eyes.forward`, or `reset` has another dtype.
        """
        if reset.dtype != torch.bool:
            raise ValueError("reset: expected dtype bool, got another dtype")
        x = self.eyes(obs)  # [batch, 128]
        born = reset.unsqueeze(1)  # [batch, 1]
        h, c = self.lstm(x, h.masked_fill(born, 0.0), c.masked_fill(born, 0.0))  # [batch, 128] each
        return self.actor(h), self.value(h), h, c

    @torch.jit.export
    def act(
        self, obs: Tensor, reset: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (actions, h, c): int64[batch, 1], the largest logit, and the state."""
        logits, _, h, c = self.forward(obs, reset, h, c)
        return logits.argmax(1, keepdim=True), h, c

    @torch.jit.export
    def sample(
        self, obs: Tensor, reset: Tensor, h: Tensor, c: Tensor, key: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (actions, h, c, key): int64[batch, 1] drawn with each row's key int64[batch].

        Arguments and errors are those of `forward`.
        """
        logits, _, h, c = self.forward(obs, reset, h, c)
        return categorical(logits, uniform(key)).unsqueeze(1), h, c, advance(key)


def snake() -> nn.Module:
    """Return the policy that reacts, trained, in eval mode."""
    return with_weights(SnakePolicy, store.load("snake"))


def snake_lstm() -> nn.Module:
    """Return the policy that remembers, trained, in eval mode."""
    return with_weights(SnakeLSTM, store.load("snake-lstm"))


# --- the cards ---

METHODS = ("forward", "act", "sample")
STATE = [("h", "h", "zeros"), ("c", "c", "zeros")]
KEY = [("key", "key", "zeros")]


def observation(seed: int, batch: int) -> Tensor:
    """Return uint8[batch, 11, 11] of tiles 0..7 at random."""
    return integers(seed, TILES, batch, SIDE, SIDE)


def examples() -> dict[str, list[Example]]:
    """Return games of three steps at batch 1, 2 and 5, and extremes, for each method."""
    return {method: _games(method, 500 + 100 * n, False) for n, method in enumerate(METHODS)}


def lstm_examples() -> dict[str, list[Example]]:
    """Return games of three steps at batch 1, 2 and 5, and extremes, for each method."""
    return {method: _games(method, 800 + 100 * n, True) for n, method in enumerate(METHODS)}


def _games(method: str, seed: int, recurrent: bool) -> list[Example]:
    def step(obs: Tensor, reset: list[int]) -> Step:
        died = torch.tensor([row in reset for row in range(len(obs))])
        return {"obs": obs, "reset": died} if recurrent else {"obs": obs}

    def state(at: int, batch: int, scale: float = 0.5) -> Step:
        values: Step = {"key": keys(at, batch)} if method == "sample" else {}
        if recurrent:
            values["h"] = normal(at + 1, batch, HIDDEN, scale=scale)
            values["c"] = normal(at + 2, batch, HIDDEN, scale=scale)
        return values

    def game(at: int, batch: int) -> Example:
        died: list[list[int]] = [[], [batch - 1], []]  # at the second step, the last agent
        return [step(observation(at + n, batch), reset) for n, reset in enumerate(died)]

    walls, empty = torch.full((2, SIDE, SIDE), 7).byte(), torch.zeros(2, SIDE, SIDE).byte()
    second, third = game(seed + 10, 2), game(seed + 20, 5)
    return [
        game(seed, 1),  # from the default state
        [second[0] | state(seed + 15, 2), *second[1:]],
        [third[0] | state(seed + 25, 5), *third[1:]],
        [step(walls, [0]) | state(seed + 30, 2, 1e3), step(empty, []), step(walls, [0, 1])],
    ]


CARD = Card(
    name="snake",
    description="Multi-agent snake: an 11 x 11 window of tiles -> one of four actions and a value",
    source="Joseph Suarez, PufferLib: getting RL models out of Python (stream)",
    factory=snake,
    examples=examples,
    dims={"obs.0": "batch", "key.0": "batch"},
    outputs={"forward": ["logits", "value"], "act": ["actions"], "sample": ["actions", "key"]},
    state={"sample": KEY},
    labels={"logits": ACTIONS},
    metrics=lambda: store.read_report("snake").metrics,
)

LSTM_CARD = Card(
    name="snake-lstm",
    description="Multi-agent snake with a memory, which is cleared inside when a snake dies",
    source="Joseph Suarez, PufferLib: getting RL models out of Python (stream)",
    factory=snake_lstm,
    examples=lstm_examples,
    dims={name: "batch" for name in ("obs.0", "reset.0", "h.0", "c.0", "key.0")},
    outputs={
        "forward": ["logits", "value", "h", "c"],
        "act": ["actions", "h", "c"],
        "sample": ["actions", "h", "c", "key"],
    },
    state={"forward": STATE, "act": STATE, "sample": STATE + KEY},
    labels={"logits": ACTIONS},
    metrics=lambda: store.read_report("snake-lstm").metrics,
)

"""A convolutional, recurrent policy for a multiplayer arena: the heroes' bytes in, actions out.

Source: the MOBA policy of PufferLib (Joseph Suarez, stream "Getting RL models out of Python"),
https://github.com/PufferAI/PufferLib, with 32 channels. Its weights are not trained but seeded:
the game needs a map that is not ours.

The layout of one observation, 510 bytes:

    bytes 0..483    the map, 11 x 11 cells around the hero, row by row; per cell four bytes:
                    the class of what stands there (0..15), then three quantities (0..255)
    bytes 484..509  26 extras about the hero (0..255)

and of the 19 planes that the convolutions see, each 11 x 11: planes 0..15 are the class, one-hot;
planes 16, 17, 18 are the three quantities, divided by 255.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from torchship.models.card import Card, Example, Step
from torchship.models.cells import State, lstm_pointwise
from torchship.models.seeding import integers, normal, seeded

SIDE = 11
CHANNELS = 4
EXTRAS = 26
OBS = SIDE * SIDE * CHANNELS + EXTRAS  # 510
CLASSES = 16
HIDDEN = 128
SEED = 400


class LSTMCell(nn.Module):
    """One step of an LSTM, gates i, f, g, o one below the other, with both biases."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.ih = nn.Linear(input_size, 4 * hidden_size)
        self.hh = nn.Linear(hidden_size, 4 * hidden_size)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> State:
        """Return (h, c) one step later, each [batch, hidden]; x is [batch, input]."""
        gates = self.ih(x) + self.hh(h)  # [batch, 4 * hidden]
        return lstm_pointwise(gates, c)  # twice [batch, hidden]


class Moba(nn.Module):
    """The policy: 168,856 parameters."""

    side: Final[int] = SIDE
    channels: Final[int] = CHANNELS
    extras: Final[int] = EXTRAS
    obs_size: Final[int] = OBS
    classes: Final[int] = CLASSES
    heads: list[int]

    def __init__(self) -> None:
        super().__init__()
        self.heads = [7, 7, 3, 2, 2, 2]  # choices of each of the six actions
        self.conv1 = nn.Conv2d(CLASSES + CHANNELS - 1, 32, kernel_size=5, stride=3)
        self.conv2 = nn.Conv2d(32, 32, kernel_size=3)
        self.extra = nn.Linear(EXTRAS, 32)
        self.proj = nn.Linear(32 + 32, HIDDEN)
        self.lstm = LSTMCell(HIDDEN, HIDDEN)
        self.actor = nn.Linear(HIDDEN, sum(self.heads))
        self.value = nn.Linear(HIDDEN, 1)

    def forward(self, obs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (logits, value, h, c) of one step.

        Args:
            obs: uint8[batch, 510], laid out as this file's first lines say.
            h: float32[batch, 128], the hidden state; zeros at the start of a game.
            c: float32[batch, 128], the cell state; zeros at the start of a game.

        Returns:
            logits float32[batch, 23] (six heads of 7, 7, 3, 2, 2, 2), value float32[batch, 1], and
            h and c, float32[batch, 128] each, for the next step.

        Raises:
            ValueError: `obs` has another dtype or shape, or a class byte is 16 or more. (In
                script: torch.jit.Error, same message.)
        """
        x = torch.relu(self.encode(obs))  # [batch, 64]
        x = torch.relu(self.proj(x))  # [batch, 128]
        h, c = self.lstm(x, h, c)  # [batch, 128] each
        return self.actor(h), self.value(h), h, c

    @torch.jit.export
    def act(self, obs: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (actions, h, c): int64[batch, 6], each head's largest logit, and the state.

        Arguments and errors are those of `forward`.
        """
        logits, _, h, c = self.forward(obs, h, c)  # [batch, 23]
        choices: list[Tensor] = []
        for head in torch.split(logits, self.heads, 1):  # [batch, 7], [batch, 7], [batch, 3], ...
            choices.append(head.argmax(1))  # [batch]
        return torch.stack(choices, 1), h, c  # [batch, 6]

    def encode(self, obs: Tensor) -> Tensor:
        """Return float32[batch, 64]: the map's features, then the extras', before their ReLU."""
        if obs.dtype != torch.uint8:
            raise ValueError("obs: expected dtype uint8, got another dtype")
        if obs.dim() != 2 or obs.size(1) != self.obs_size:
            raise ValueError(f"obs: expected [batch, {self.obs_size}], got {list(obs.shape)}")
        field, extras = obs[:, : -self.extras], obs[:, -self.extras :]  # [batch, 484], [batch, 26]
        field = field.reshape(-1, self.side, self.side, self.channels)  # [batch, 11, 11, 4]

        kind = field[:, :, :, 0].long()  # [batch, 11, 11]
        if kind.numel() > 0:
            largest = int(kind.max())
            if largest >= self.classes:
                raise ValueError(f"obs: class byte must be below {self.classes}, got {largest}")
        planes = one_hot(kind, self.classes).float()  # [batch, 11, 11, 16]
        quantities = field[:, :, :, 1:].float() / 255  # [batch, 11, 11, 3]
        x = torch.cat([planes, quantities], 3)  # [batch, 11, 11, 19]
        # No contiguous(): with the channels last in memory, the convolution is twice as fast.
        x = x.permute(0, 3, 1, 2)  # [batch, 19, 11, 11]

        x = torch.relu(self.conv1(x))  # [batch, 32, 3, 3]
        x = self.conv2(x).flatten(1)  # [batch, 32, 1, 1] -> [batch, 32]
        y = self.extra(extras.float() / 255)  # [batch, 32]
        return torch.cat([x, y], 1)  # [batch, 64]


def moba() -> Moba:
    """Return the policy in eval mode with seeded weights (see `seeding.seeded`)."""
    return seeded(Moba, SEED)


# --- the card ---


def observation(seed: int, batch: int) -> Tensor:
    """Return uint8[batch, 510] at random, with class bytes below 16."""
    obs = integers(seed, 256, batch, OBS)
    cells = integers(seed + 1, CLASSES, batch, SIDE * SIDE)
    obs[:, : SIDE * SIDE * CHANNELS : CHANNELS] = cells
    return obs


def examples() -> dict[str, list[Example]]:
    """Return games of three steps at batch 1, 2 and 5, and extremes, for each method."""
    return {"forward": _games(410), "act": _games(460)}


def _games(seed: int) -> list[Example]:
    def game(at: int, batch: int) -> Example:
        return [{"obs": observation(at + 2 * step, batch)} for step in range(3)]

    def state(at: int, batch: int, scale: float = 0.5) -> Step:
        return {
            "h": normal(at, batch, HIDDEN, scale=scale),
            "c": normal(at + 1, batch, HIDDEN, scale=scale),
        }

    zeros, full = torch.zeros(2, OBS, dtype=torch.uint8), torch.full((2, OBS), 255).byte()
    full[:, : SIDE * SIDE * CHANNELS : CHANNELS] = CLASSES - 1
    second, third = game(seed + 10, 2), game(seed + 20, 5)
    return [
        game(seed, 1),  # from the default state
        [second[0] | state(seed + 16, 2), *second[1:]],
        [third[0] | state(seed + 26, 5), *third[1:]],
        [{"obs": full} | state(seed + 30, 2, 1e3), {"obs": zeros}, {"obs": full}],
    ]


STATE = [("h", "h", "zeros"), ("c", "c", "zeros")]

CARD = Card(
    name="moba",
    description="A game policy: 510 bytes of observation -> six discrete actions and a value",
    source="Joseph Suarez, PufferLib: getting RL models out of Python (stream)",
    factory=moba,
    examples=examples,
    dims={"obs.0": "batch", "h.0": "batch", "c.0": "batch"},
    outputs={"forward": ["logits", "value", "h", "c"], "act": ["actions", "h", "c"]},
    state={"forward": STATE, "act": STATE},
)

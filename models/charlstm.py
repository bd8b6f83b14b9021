"""A character LSTM: names symbol by symbol, with a memory of all that came before.

Source: the data and the task are those of Andrej Karpathy's "Building makemore" (lectures, 2022 to
2023); the recurrent variant follows Mikolov et al., "Recurrent neural network based language model"
(2010). The cell and the loop are our own, from `cells` and `recurrent`.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from torchship.models import data
from torchship.models.card import Card, Example
from torchship.models.cells import LSTMCell
from torchship.models.layers import Embedding
from torchship.models.makemore import check_sizes, check_symbols, losses, mean_loss
from torchship.models.names import IGNORED, SYMBOLS, sequences, split
from torchship.models.recurrent import Recurrent
from torchship.models.sampling import advance, categorical, keys, uniform
from torchship.models.seeding import normal, with_weights
from torchship.models.training import store
from torchship.models.training.descent import Recipe, Trained, descend
from torchship.models.training.journal import Journal

EMBEDDING = 64
HIDDEN = 256


class CharLSTM(nn.Module):
    """Embedding(27, 64) -> LSTM(64, 256) -> Linear(256, 27): 338,395 parameters.

    In training mode with dropout after the embedding (0.2) and after the LSTM (0.4).
    """

    symbols: Final[int] = len(SYMBOLS)

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding(len(SYMBOLS), EMBEDDING)
        self.embedding_dropout = nn.Dropout(0.2)
        self.lstm = Recurrent(LSTMCell, EMBEDDING, HIDDEN)
        self.dropout = nn.Dropout(0.4)
        self.logits = nn.Linear(HIDDEN, len(SYMBOLS))
        nn.init.normal_(self.embedding.weight)

    def forward(self, x: Tensor, hidden: list[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return (logits, hidden): the logits of what follows each symbol, and the state.

        Args:
            x: int64[batch, time], at least one step: '.' is 0, a to z are 1 to 26. A name begins
                with 0.
            hidden: [h, c] to go on from, each float32[1, batch, 256]; zeros when left out.

        Returns:
            float32[batch, time, 27], and [h, c] for the next call.

        Raises:
            ValueError: `x` or `hidden` has another dtype or shape, or an index is not 0 to 26. (In
                script: torch.jit.Error, same message.)
        """
        if x.dim() != 2 or x.size(1) == 0:
            raise ValueError(
                f"x: expected [batch, time] with at least one step, got {list(x.shape)}"
            )
        check_symbols(x, self.symbols)
        y = self.embedding_dropout(self.embedding(x))  # [batch, time, 64]
        y, hidden = self.lstm(y, hidden)  # [batch, time, 256]
        return self.logits(self.dropout(y)), hidden

    @torch.jit.export
    def generate(self, count: int, seed: int, max_length: int) -> Tensor:
        """Return int64[count, max_length]: names drawn symbol by symbol, 0 after their end.

        Each row draws with its own key (see `sampling`); a session that steps `forward` and draws
        with the same keys gets the same names. The loop ends when every name has.

        Args:
            count: how many names, 1 to 10,000.
            seed: any int64.
            max_length: symbols per name at most, 1 to 1,000.

        Raises:
            ValueError: `count` or `max_length` is out of its range.
        """
        check_sizes(count, max_length)
        symbol = torch.zeros([count], dtype=torch.int64)
        names = torch.zeros([count, max_length], dtype=torch.int64)
        going = torch.ones([count], dtype=torch.bool)
        hidden: list[Tensor] | None = None
        key = keys(seed, count)  # [count]
        length = 0
        while length < max_length and bool(going.any()):
            logits, hidden = self.forward(symbol.unsqueeze(1), hidden)  # [count, 1, 27]
            symbol = categorical(logits[:, 0], uniform(key)) * going  # [count]
            names[:, length] = symbol
            going = going & (symbol != 0)
            key = advance(key)
            length += 1
        return names


def charlstm() -> CharLSTM:
    """Return the trained network in eval mode."""
    return with_weights(CharLSTM, store.load("charlstm"))


# --- the recipe ---

WARM_UP = 100


def batches(
    inputs: Tensor, targets: Tensor, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (inputs, targets), int64[size, longest] each, of names drawn with replacement."""
    while True:
        rows = torch.randint(len(inputs), (size,), generator=generator)
        longest = int((targets[rows] != IGNORED).sum(1).max())
        yield inputs[rows, :longest], targets[rows, :longest]


def cross_entropy(output: tuple[Tensor, list[Tensor]], targets: Tensor) -> Tensor:
    """Return the mean cross-entropy in nats per symbol, over the targets that count."""
    logits, _ = output
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED
    )


def cosine_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate at a step, from 1: up in 100 steps, then down along a cosine."""
    falling = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    return recipe.lr * min(1.0, step / WARM_UP) * (falling + 0.01)


def loss(model: CharLSTM, inputs: Tensor, targets: Tensor) -> float:
    """Return the mean cross-entropy in nats per symbol, in eval mode."""
    return mean_loss(model, cross_entropy, inputs, targets)


def fit(recipe: Recipe, journal: Journal) -> Trained:
    """Train on 80 % of the names; report the loss on all three parts."""
    parts = split(data.names())
    train, validation, test = map(sequences, (parts.train, parts.validation, parts.test))
    generator = torch.Generator().manual_seed(recipe.seed)
    model = CharLSTM().train()
    descend(
        model,
        batches(*train, recipe.batch, generator),
        cross_entropy,
        recipe,
        journal,
        optimizer=torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.05),
        rate=cosine_rate,
        clip=1.0,
        validate=lambda: loss(model, *validation),
    )
    metrics = losses(lambda part: loss(model, *part), train, validation, test)
    return Trained(model.eval(), metrics)


# About 20 epochs of 25,626 names.
RECIPE = Recipe(
    name="charlstm",
    seed=1,
    steps=4000,
    lr=0.003,
    batch=128,
    fit=fit,
    optimizer="AdamW, betas 0.9 and 0.99, weight decay 0.05, gradient clipped to 1; the rate rises "
    "for 100 steps and falls along a cosine; dropout 0.2 and 0.4",
    checkpoint_steps=200,
)


# --- the card ---


def examples() -> dict[str, list[Example]]:
    """Return symbols at batch 1, 2 and 5 and several lengths, some in pieces, and names."""

    def x(seed: int, batch: int, time: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(len(SYMBOLS), (batch, time), generator=generator)

    def hidden(seed: int, batch: int, scale: float = 0.5) -> list[Tensor]:
        return [normal(seed + k, 1, batch, HIDDEN, scale=scale) for k in range(2)]

    real, _ = sequences(["emma", "zzyzx", "maximilian"])
    return {
        "forward": [
            [{"x": x(601, 1, 1)}, {"x": x(602, 1, 1)}, {"x": x(603, 1, 1)}],
            [{"x": x(611, 2, 3), "hidden": hidden(612, 2)}, {"x": x(614, 2, 1)}],
            [
                {"x": x(621, 5, 2), "hidden": hidden(622, 5)},
                {"x": x(624, 5, 4)},
                {"x": x(625, 5, 1)},
            ],
            [{"x": real}],
            [{"x": torch.zeros(2, 2, dtype=torch.int64), "hidden": hidden(632, 2, 1e3)}],
        ],
        "generate": [
            [{"count": 5, "seed": 1, "max_length": 16}],
            [{"count": 1, "seed": -42, "max_length": 30}],
            [{"count": 64, "seed": 2**62 + 1, "max_length": 4}],
        ],
    }


def metrics() -> Mapping[str, float]:
    """Return what the kept weights reached."""
    return store.read_report("charlstm").metrics


CARD = Card(
    name="charlstm",
    description="Names, symbol by symbol: an LSTM that keeps its state from call to call",
    source="Andrej Karpathy, Building makemore (lectures, 2022 to 2023); Mikolov et al. (2010)",
    factory=charlstm,
    examples=examples,
    dims={"x.0": "batch", "x.1": "time", "hidden.0.1": "batch", "hidden.1.1": "batch"},
    outputs={"forward": ["logits", "hidden"], "generate": ["names"]},
    state={
        "forward": [("hidden.0", "hidden.0", "absent"), ("hidden.1", "hidden.1", "absent")],
    },
    labels={"logits": SYMBOLS},
    metrics=metrics,
)

"""Character models over a context of eight symbols: the flat network and the WaveNet-like tree.

Source: Andrej Karpathy, "Building makemore part 5: Building a WaveNet" (lecture, 2022),
https://github.com/karpathy/nn-zero-to-hero: the layers, the two networks, the initial weights and
the recipe are the lecture's. Data is channels last: [batch, length, channel].
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from torchship.models import data
from torchship.models.card import Card, Example
from torchship.models.layers import (
    BatchNorm,
    Embedding,
    FlattenConsecutive,
    Linear,
    Sequential,
    Tanh,
)
from torchship.models.names import SYMBOLS, contexts, split
from torchship.models.sampling import advance, categorical, keys, uniform
from torchship.models.seeding import with_weights
from torchship.models.training import store
from torchship.models.training.descent import Recipe, Trained, descend
from torchship.models.training.journal import Journal

CONTEXT = 8


class Makemore(nn.Module):
    """A network from a context to the logits of the next symbol, and names drawn from it."""

    context: Final[int] = CONTEXT
    symbols: Final[int] = len(SYMBOLS)

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.net = Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32[batch, 27]: the logits of the symbol that comes next.

        Args:
            x: int64[batch, 8], the symbols before, the oldest first: '.' is 0, a to z are 1 to 26.

        Raises:
            ValueError: `x` has another dtype or shape, or an index is not 0 to 26. (In script:
                torch.jit.Error, same message.)
        """
        if x.dim() != 2 or x.size(1) != self.context:
            raise ValueError(f"x: expected [batch, {self.context}], got {list(x.shape)}")
        check_symbols(x, self.symbols)
        logits: Tensor = self.net(x)
        return logits

    @torch.jit.export
    def generate(self, count: int, seed: int, max_length: int) -> Tensor:
        """Return int64[count, max_length]: names drawn symbol by symbol, 0 after their end.

        Each row draws with its own key (see `sampling`), so a name depends on the seed and on its
        row alone. The loop ends when every name has.

        Args:
            count: how many names, 1 to 10,000.
            seed: any int64.
            max_length: symbols per name at most, 1 to 1,000.

        Raises:
            ValueError: `count` or `max_length` is out of its range.
        """
        check_sizes(count, max_length)
        context = torch.zeros([count, self.context], dtype=torch.int64)
        names = torch.zeros([count, max_length], dtype=torch.int64)
        going = torch.ones([count], dtype=torch.bool)
        key = keys(seed, count)  # [count]
        length = 0
        while length < max_length and bool(going.any()):
            symbol = categorical(self.forward(context), uniform(key)) * going  # [count]
            names[:, length] = symbol
            context = torch.cat([context[:, 1:], symbol.unsqueeze(1)], 1)  # [count, 8]
            going = going & (symbol != 0)
            key = advance(key)
            length += 1
        return names


def check_symbols(x: Tensor, symbols: int) -> None:
    """Raise ValueError unless `x` is int64 and holds indices of symbols only."""
    if x.dtype != torch.int64:
        raise ValueError("x: expected dtype int64, got another dtype")
    if x.numel() > 0:
        smallest, largest = int(x.min()), int(x.max())
        if smallest < 0 or largest >= symbols:
            wrong = smallest if smallest < 0 else largest
            raise ValueError(f"x: expected indices 0 to {symbols - 1}, got {wrong}")


def check_sizes(count: int, max_length: int) -> None:
    """Raise ValueError if so many or so long names cannot be asked for."""
    if count < 1 or count > 10000:
        raise ValueError(f"count: expected 1 to 10000, got {count}")
    if max_length < 1 or max_length > 1000:
        raise ValueError(f"max_length: expected 1 to 1000, got {max_length}")


def flat_network() -> Makemore:
    """Return the flat network, without weights: 22,097 parameters."""
    embedding, hidden = 10, 200
    return Makemore(
        Embedding(len(SYMBOLS), embedding),
        FlattenConsecutive(CONTEXT),  # [batch, 80]
        Linear(CONTEXT * embedding, hidden),
        BatchNorm(hidden),
        Tanh(),
        Linear(hidden, len(SYMBOLS), bias=True),
    )


def wavenet_network() -> Makemore:
    """Return the tree of three levels, without weights: 76,579 parameters."""
    embedding, hidden = 24, 128
    layers: list[nn.Module] = [Embedding(len(SYMBOLS), embedding)]  # [batch, 8, 24]
    width = embedding
    for _ in range(3):  # [batch, 4, 128], [batch, 2, 128], [batch, 128]
        layers += [
            FlattenConsecutive(2),
            Linear(2 * width, hidden),
            BatchNorm(hidden),
            Tanh(),
        ]
        width = hidden
    return Makemore(*layers, Linear(hidden, len(SYMBOLS), bias=True))


def makemore_flat() -> Makemore:
    """Return the trained flat network in eval mode."""
    return with_weights(flat_network, store.load("makemore-flat"))


def wavenet() -> Makemore:
    """Return the trained tree in eval mode."""
    return with_weights(wavenet_network, store.load("wavenet"))


# --- the recipes ---


def initial_weights(network: Makemore, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the lecture's initial weights for a network made on the meta device.

    Matrices are normal / sqrt(in), the embedding is normal, the last matrix is ten times smaller,
    so that the network begins without confidence.
    """
    weights: dict[str, Tensor] = {}
    matrices = []
    for name, tensor in network.state_dict().items():
        ends = name.rpartition(".")[2]
        if ends == "weight":
            normal = torch.randn(tensor.shape, generator=generator)
            embeds = isinstance(network.get_submodule(name.rpartition(".")[0]), Embedding)
            weights[name] = normal if embeds else normal / tensor.shape[0] ** 0.5
            matrices.append(name)
        elif ends in ("gamma", "running_var"):
            weights[name] = torch.ones(tensor.shape)
        else:
            weights[name] = torch.zeros(tensor.shape)
    weights[matrices[-1]] *= 0.1
    return weights


def batches(
    inputs: Tensor, targets: Tensor, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (contexts int64[size, 8], next symbols int64[size]) for ever, with replacement."""
    while True:
        rows = torch.randint(len(inputs), (size,), generator=generator)
        yield inputs[rows], targets[rows]


def falling_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate at a step, from 1: a tenth of it for the last quarter.

    So far the lecture's. For the last twentieth it is a hundredth, which takes the noise of small
    batches out of the weights: without it, `wavenet` ended at 1.994 instead of under 1.993.
    """
    if step > recipe.steps * 19 // 20:
        return recipe.lr / 100
    return recipe.lr / 10 if step > recipe.steps * 3 // 4 else recipe.lr


def mean_loss(
    model: nn.Module, loss_of: Callable[[Any, Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> float:
    """Return `loss_of(model(inputs), targets)` in eval mode; leave the model in training mode."""
    model.eval()
    with torch.no_grad():
        value = loss_of(model(inputs), targets).item()
    model.train()
    return value


def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """Return the mean cross-entropy in nats per symbol, in eval mode."""
    return mean_loss(model, nn.functional.cross_entropy, inputs, targets)


Part = tuple[Tensor, Tensor]
"""Inputs and targets of one part of the data."""


def losses(
    loss_on: Callable[[Part], float], train: Part, validation: Part, test: Part
) -> dict[str, float]:
    """Return the figures that a character model reports."""
    return {
        "validation loss": loss_on(validation),
        "train loss": loss_on(train),
        "test loss": loss_on(test),
    }


def fit(recipe: Recipe, journal: Journal) -> Trained:
    """Train on the contexts of 80 % of the names; report the loss on all three parts."""
    make = flat_network if recipe.name == "makemore-flat" else wavenet_network
    parts = split(data.names())
    train, validation, test = (
        contexts(part, CONTEXT) for part in (parts.train, parts.validation, parts.test)
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    with torch.device("meta"):
        network = make()
    model = with_weights(make, initial_weights(network, generator)).train()
    descend(
        model,
        batches(*train, recipe.batch, generator),
        nn.functional.cross_entropy,
        recipe,
        journal,
        rate=falling_rate,
        validate=lambda: loss(model, *validation),
    )
    metrics = losses(lambda part: loss(model, *part), train, validation, test)
    return Trained(model.eval(), metrics)


FLAT_RECIPE = Recipe(
    name="makemore-flat",
    seed=42,
    steps=200_000,
    lr=0.1,
    batch=32,
    fit=fit,
    optimizer="SGD, no momentum; a tenth of the rate from 3/4 on, a hundredth from 19/20 on",
)
WAVENET_RECIPE = replace(FLAT_RECIPE, name="wavenet")


# --- the cards ---


def examples() -> dict[str, list[Example]]:
    """Return contexts at batch 1, 2, 7 and 27, and names of several counts, seeds and lengths."""

    def x(seed: int, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(len(SYMBOLS), (batch, CONTEXT), generator=generator)

    real, _ = contexts(["emma", "zzyzx", "maximilian"], CONTEXT)
    return {
        "forward": [
            [{"x": x(501, 1)}],
            [{"x": x(502, 2)}],
            [{"x": x(503, 7)}],
            [{"x": real}],
            [{"x": torch.zeros(1, CONTEXT, dtype=torch.int64)}],
        ],
        "generate": [
            [{"count": 5, "seed": 1, "max_length": 16}],
            [{"count": 1, "seed": -42, "max_length": 30}],
            [{"count": 64, "seed": 2**62 + 1, "max_length": 4}],
        ],
    }


SOURCE = "Andrej Karpathy, Building makemore part 5: Building a WaveNet (lecture, 2022)"


def _card(name: str, description: str, make: Callable[[], Makemore]) -> Card:
    def metrics() -> Mapping[str, float]:
        return store.read_report(name).metrics

    return Card(
        name=name,
        description=description,
        source=SOURCE,
        factory=make,
        examples=examples,
        dims={"x.0": "batch"},
        outputs={"forward": ["logits"], "generate": ["names"]},
        labels={"logits": SYMBOLS},
        metrics=metrics,
    )


FLAT = _card(
    "makemore-flat", "Names, symbol by symbol: one hidden layer over 8 symbols", makemore_flat
)
WAVENET = _card("wavenet", "Names, symbol by symbol: a tree of layers over 8 symbols", wavenet)

"""BobNet: handwritten digits from raw pixels with two matrices.

Source: George Hotz, "MNIST from scratch" (stream, 2020),
https://github.com/geohot/ai-notebooks/blob/master/mnist_from_scratch.ipynb: the network, the
initial weights and the recipe are the stream's, which ends at 96.35 %.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from torchship.models import data
from torchship.models.card import Card, Example
from torchship.models.seeding import integers, with_weights
from torchship.models.training import store
from torchship.models.training.descent import Recipe, Trained, accuracy, descend
from torchship.models.training.journal import Journal

PIXELS = 28 * 28
HIDDEN = 128
DIGITS = tuple("0123456789")


class BobNet(nn.Module):
    """Linear(784, 128) -> ReLU -> Linear(128, 10) -> log-softmax, no biases: 101,632 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.l1 = nn.Linear(PIXELS, HIDDEN, bias=False)
        self.relu = nn.ReLU()
        self.l2 = nn.Linear(HIDDEN, len(DIGITS), bias=False)
        self.log_softmax = nn.LogSoftmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32[batch, 10]: the log-probability of each digit.

        Args:
            x: uint8[batch, 784], raw pixels 0..255, row by row, 0 is background. They are not
                scaled: the weights were trained on 0..255.

        Raises:
            RuntimeError: a row of `x` has not 784 entries.
        """
        x = x.float()  # [batch, 784]
        x = self.l1(x)  # [batch, 128]
        x = self.relu(x)  # [batch, 128]
        x = self.l2(x)  # [batch, 10]
        x = self.log_softmax(x)  # [batch, 10]
        return x


def bobnet() -> BobNet:
    """Return the trained network in eval mode."""
    return with_weights(BobNet, store.load("bobnet"))


# --- the recipe ---


def stream_weights(generator: torch.Generator) -> dict[str, Tensor]:
    """Return the stream's initial weights: uniform(-1, 1) / sqrt(out * in)."""
    return _uniform_weights(generator, lambda shape: float(shape.numel()))


def default_weights(generator: torch.Generator) -> dict[str, Tensor]:
    """Return weights distributed as torch's own initial ones: uniform(-1, 1) / sqrt(in)."""
    return _uniform_weights(generator, lambda shape: float(shape[1]))


def batches(
    digits: data.Digits, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (pixels uint8[size, 784], labels int64[size]) for ever, drawn with replacement."""
    while True:
        rows = torch.randint(len(digits.labels), (size,), generator=generator)
        yield digits.images[rows], digits.labels[rows]


def fit(recipe: Recipe, journal: Journal) -> Trained:
    """Train on the 60,000 images and test on the 10,000, from the stream's and torch's weights.

    Both trainings follow the same recipe and see the same batches; the model that started from the
    stream's weights is the one returned.
    """
    train, test = data.mnist("train"), data.mnist("test")
    model, reached = _fit_from(stream_weights, recipe, journal, train, test, "bobnet")
    _, default = _fit_from(default_weights, recipe, journal, train, test, "torch's initial weights")
    metrics = {"test accuracy": reached, "test accuracy from torch's initial weights": default}
    return Trained(model, metrics)


def _fit_from(
    weights: Callable[[torch.Generator], dict[str, Tensor]],
    recipe: Recipe,
    journal: Journal,
    train: data.Digits,
    test: data.Digits,
    phase: str,
) -> tuple[BobNet, float]:
    generator = torch.Generator().manual_seed(recipe.seed)
    model = with_weights(BobNet, weights(generator))
    drawn = batches(train, recipe.batch, generator)

    def test_loss() -> float:
        with torch.no_grad():
            return nn.functional.nll_loss(model(test.images), test.labels).item()

    descend(
        model,
        drawn,
        nn.functional.nll_loss,
        recipe,
        journal,
        phase=phase,
        validate=test_loss,
    )
    with torch.no_grad():
        return model, accuracy(model(test.images), test.labels)


def _uniform_weights(
    generator: torch.Generator, divisor: Callable[[torch.Size], float]
) -> dict[str, Tensor]:
    with torch.device("meta"):
        parameters = dict(BobNet().named_parameters())
    return {
        name: (torch.rand(p.shape, generator=generator) * 2 - 1) / divisor(p.shape) ** 0.5
        for name, p in parameters.items()
    }


# The stream's seed, steps, rate and batch. The seeds 0 to 7 and 42 reach 96.05 to 96.54 %.
RECIPE = Recipe(
    name="bobnet", seed=1337, steps=1000, lr=0.001, batch=128, fit=fit, checkpoint_steps=100
)


# --- the card ---


def examples() -> dict[str, list[Example]]:
    """Return images with a fifth of the pixels inked at batch 1, 2 and 7, and extremes."""
    extremes = torch.zeros(3, PIXELS, dtype=torch.uint8)  # all background
    extremes[1] = 255  # all ink
    extremes[2, ::2] = 255  # stripes
    return {
        "forward": [
            [{"x": _inked(201, 1)}],
            [{"x": _inked(202, 2)}],
            [{"x": _inked(203, 7)}],
            [{"x": extremes}],
        ]
    }


def _inked(seed: int, batch: int) -> Tensor:
    ink = integers(seed, 256, batch, PIXELS)
    return ink * (integers(seed + 50, 5, batch, PIXELS) == 0)


def metrics() -> Mapping[str, float]:
    """Return what the kept weights reached."""
    return store.read_report("bobnet").metrics


CARD = Card(
    name="bobnet",
    description="MNIST: the raw pixels of a handwritten digit -> log-probabilities of 0..9",
    source="George Hotz, MNIST from scratch (stream, 2020)",
    factory=bobnet,
    examples=examples,
    dims={"x.0": "batch"},
    outputs={"forward": ["log_probs"]},
    labels={"log_probs": DIGITS},
    metrics=metrics,
)

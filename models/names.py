"""The names data set of makemore as symbols, contexts and sequences.

Source: Andrej Karpathy, "Building makemore" (lectures 2 to 5, 2022 to 2023),
https://github.com/karpathy/makemore: the 27 symbols, the shuffle and the split are the lectures'.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SYMBOLS = (".", *"abcdefghijklmnopqrstuvwxyz")
"""The symbol of each index: 0 begins and ends a name."""

END = 0
IGNORED = -1
"""The target where a sequence has ended: `cross_entropy(..., ignore_index=IGNORED)`."""


@dataclass(frozen=True)
class Split:
    """The names for training (80 %), validation (10 %) and test (10 %), by whole names."""

    train: list[str]
    validation: list[str]
    test: list[str]


def split(names: Sequence[str]) -> Split:
    """Return the names in the lectures' order and parts: shuffled with `random.seed(42)`."""
    shuffled = list(names)
    random.Random(42).shuffle(shuffled)
    first, second = int(0.8 * len(shuffled)), int(0.9 * len(shuffled))
    return Split(shuffled[:first], shuffled[first:second], shuffled[second:])


def encode(name: str) -> list[int]:
    """Return the indices of a name's symbols.

    Raises:
        ValueError: a character is none of the 27.
    """
    unknown = set(name) - set(SYMBOLS)
    if unknown:
        raise ValueError(f"'{name}': expected a to z and '.', got '{min(unknown)}'")
    return [SYMBOLS.index(character) for character in name]


def decode(symbols: Tensor) -> list[str]:
    """Return the names in int64[count, length]; each ends before its first 0."""
    rows = ("".join(SYMBOLS[index] for index in row) for row in symbols.tolist())
    return [row.partition(SYMBOLS[END])[0] for row in rows]


def contexts(names: Sequence[str], size: int) -> tuple[Tensor, Tensor]:
    """Return (contexts int64[n, size], next symbols int64[n]): one row per symbol and per end.

    A context is the symbols before, the oldest first, filled up with 0 at the left.
    """
    rows, targets = [], []
    for name in names:
        context = [END] * size
        for symbol in (*encode(name), END):
            rows.append(context)
            targets.append(symbol)
            context = [*context[1:], symbol]
    return torch.tensor(rows), torch.tensor(targets)


def sequences(names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return (inputs int64[n, longest + 1], targets of that shape): one row per name.

    A row of inputs is 0 and the name's symbols; its targets are the same one earlier, then 0, then
    `IGNORED`. The targets that count are those of `contexts`, in the same order.
    """
    longest = max(map(len, names)) + 1
    inputs = torch.full((len(names), longest), END)
    targets = torch.full((len(names), longest), IGNORED)
    for row, name in enumerate(names):
        symbols = torch.tensor(encode(name))
        inputs[row, 1 : len(name) + 1] = symbols
        targets[row, : len(name)] = symbols
        targets[row, len(name)] = END
    return inputs, targets

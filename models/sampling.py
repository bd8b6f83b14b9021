"""Random choices inside a script: the same key gives the same choice in every runtime.

A generator hidden in the runtime would be another one in Python, in C++ and in a server that many
clients share. Here the random numbers are a function of a key, written in tensor operations, so
that they are scripted with the model, and a row's choices depend on its own key alone.

The function is SplitMix64: Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators"
(OOPSLA 2014), with the constants of Stafford's variant 13. int64 arithmetic wraps around as
uint64's does.
"""

import torch
from torch import Tensor


def keys(seed: int, count: int) -> Tensor:
    """Return int64[count]: one key per row, apart from each other and from another seed's."""
    rows = torch.arange(count)  # [count]
    return _scatter(rows + _scatter(torch.full([count], seed, dtype=torch.int64)))


def advance(key: Tensor) -> Tensor:
    """Return each row's next key, int64[batch]."""
    return key + -7046029254386353131  # 2**64 / golden ratio, as int64


def uniform(key: Tensor) -> Tensor:
    """Return float32[batch], uniform over the 2**24 equally spaced numbers in [0, 1).

    Drawn again and again, with `advance` in between, they are the outputs of SplitMix64 seeded with
    the key, the upper 24 of their 64 bits.

    Args:
        key: int64[batch]; `advance` it before the next draw.
    """
    return _logical_shift(_scatter(key), 40).float() / 16777216  # [batch]


def categorical(logits: Tensor, u: Tensor) -> Tensor:
    """Return int64[batch]: a class of each row, drawn with the probabilities softmax(logits).

    Args:
        logits: float[batch, class].
        u: float[batch], uniform in [0, 1): where on the cumulative distribution the draw falls.
    """
    cumulative = torch.softmax(logits, 1).cumsum(1)  # [batch, class]
    reached = u.unsqueeze(1) * cumulative[:, -1:]  # [batch, 1]; the sum may round to beside 1
    return (cumulative <= reached).sum(1)  # [batch]; below the last column, since u < 1


def _scatter(z: Tensor) -> Tensor:
    """Return int64 of z's shape, a bijection that scatters neighbours.

    It adds before it mixes: of 0, which is a likely seed and the state that a session starts with,
    the mixing alone would make 0.
    """
    z = advance(z)
    z = (z ^ _logical_shift(z, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    z = (z ^ _logical_shift(z, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return z ^ _logical_shift(z, 31)


def _logical_shift(z: Tensor, bits: int) -> Tensor:
    """Return z shifted right with zeros coming in; `>>` alone would copy the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)

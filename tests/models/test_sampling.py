from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from torchship.models import sampling

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15
INT64 = st.integers(-(2**63), 2**63 - 1)


def mix(z: int) -> int:
    """The function of the paper, in Python's unbounded integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@given(st.lists(INT64, min_size=1, max_size=40))
def test_uniform_numbers_are_those_of_splitmix64(numbers: list[int]) -> None:
    """The outputs of the paper's generator seeded with n are mix(n + gamma), mix(n + 2 gamma)..."""
    key = torch.tensor(numbers)
    for count in (1, 2, 3):
        expected = [(mix((n + count * GAMMA) & MASK) >> 40) / 2**24 for n in numbers]
        assert sampling.uniform(key).tolist() == expected
        key = sampling.advance(key)


def test_the_first_outputs_are_the_published_ones() -> None:
    """Of SplitMix64 seeded with 1234567, from the test data of Rosetta Code's task of that name."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    key = torch.tensor([1234567])
    for output in published:
        assert sampling.uniform(key).item() == (output >> 40) / 2**24
        key = sampling.advance(key)


@given(INT64)
def test_rows_have_keys_of_their_own(seed: int) -> None:
    keys = sampling.keys(seed, 5)
    base = mix((seed + GAMMA) & MASK)
    assert [k & MASK for k in keys.tolist()] == [
        mix((row + base + GAMMA) & MASK) for row in range(5)
    ]
    assert torch.equal(sampling.keys(seed, 9)[:5], keys)


def test_seed_0_and_key_0_are_like_any_other() -> None:
    assert bool((sampling.keys(0, 100) != 0).all())
    assert 0.01 < sampling.uniform(torch.zeros(1, dtype=torch.int64)).item() < 0.99


def test_uniform_numbers_fill_the_unit_interval_evenly() -> None:
    draws = torch.stack([sampling.uniform(sampling.keys(seed, 20_000)) for seed in range(10)])
    assert draws.dtype == torch.float32
    assert 0 <= float(draws.min()) < 1e-4
    assert 1 - 1e-4 < float(draws.max()) < 1
    tenths = (draws * 10).long().flatten().bincount(minlength=10) / draws.numel()
    torch.testing.assert_close(tenths, torch.full((10,), 0.1), rtol=0, atol=0.003)
    correlation = torch.corrcoef(draws)
    assert float((correlation - torch.eye(10)).abs().max()) < 0.03


def test_classes_come_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0, float("-inf")]])
    count = 100_000
    drawn = sampling.categorical(logits.expand(count, 5), sampling.uniform(sampling.keys(3, count)))
    shares = drawn.bincount(minlength=5) / count
    torch.testing.assert_close(shares, torch.softmax(logits[0], 0), rtol=0, atol=0.005)
    assert shares[4] == 0


def test_a_draw_follows_the_cumulative_distribution() -> None:
    logits = torch.log(torch.tensor([[0.25, 0.0, 0.5, 0.25]]))
    for u, expected in ((0.0, 0), (0.2499, 0), (0.26, 2), (0.7499, 2), (0.76, 3), (1 - 2**-24, 3)):
        assert sampling.categorical(logits, torch.tensor([u])).item() == expected


@given(st.integers(1, 40), st.integers(0, 2**32))
def test_a_class_is_always_one_of_the_classes(classes: int, seed: int) -> None:
    logits = torch.randn(50, classes, generator=torch.Generator().manual_seed(seed)) * 30
    u = torch.cat([torch.zeros(25), torch.full((25,), 1 - 2**-24)])
    drawn = sampling.categorical(logits, u)
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < classes
    assert bool((torch.softmax(logits, 1).gather(1, drawn[:, None]) > 0).all())


def test_a_row_is_drawn_the_same_among_others_and_alone() -> None:
    logits = torch.randn(7, 27, generator=torch.Generator().manual_seed(1))
    u = sampling.uniform(sampling.keys(5, 7))
    together = sampling.categorical(logits, u)
    alone = [sampling.categorical(logits[i : i + 1], u[i : i + 1]).item() for i in range(7)]
    assert together.tolist() == alone


@pytest.mark.parametrize("function", [sampling.uniform, sampling.advance])
def test_script_agrees_with_eager(
    function: Callable[[Tensor], Tensor], script_function: Callable[..., Callable[..., Tensor]]
) -> None:
    key = torch.cat([sampling.keys(1, 100), torch.tensor([0, -1, 2**63 - 1, -(2**63)])])
    assert torch.equal(script_function(function)(key), function(key))


def test_scripted_keys_and_classes_agree_with_eager(
    script_function: Callable[..., Callable[..., Tensor]],
) -> None:
    assert torch.equal(script_function(sampling.keys)(-5, 9), sampling.keys(-5, 9))
    logits = torch.randn(9, 27, generator=torch.Generator().manual_seed(1))
    u = sampling.uniform(sampling.keys(5, 9))
    drawn = script_function(sampling.categorical)(logits, u)
    assert torch.equal(drawn, sampling.categorical(logits, u))

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchship.models import data, names

WORDS = st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=15), min_size=1)


def test_the_parts_have_the_lectures_sizes(parts: names.Split) -> None:
    sizes = [
        tuple(names.contexts(p, 8)[0].shape) for p in (parts.train, parts.validation, parts.test)
    ]
    assert sizes == [(182_625, 8), (22_655, 8), (22_866, 8)]
    assert [len(p) for p in (parts.train, parts.validation, parts.test)] == [25_626, 3203, 3204]
    assert parts.train[:3] == ["yuheng", "diondre", "xavien"]
    assert sorted(parts.train + parts.validation + parts.test) == sorted(data.names())


def test_contexts_are_the_eight_symbols_before() -> None:
    inputs, targets = names.contexts(["ab", "z"], 8)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.tolist() == [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 1, 2],
        [0, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 26],
    ]
    assert targets.tolist() == [1, 2, 0, 26, 0]


@given(WORDS)
def test_sequences_have_the_targets_of_the_contexts(words: list[str]) -> None:
    """So that losses of both kinds of model are means over the same symbols."""
    inputs, targets = names.sequences(words)
    contexts, expected = names.contexts(words, 16)
    assert torch.equal(targets[targets != names.IGNORED], expected)
    assert torch.equal(inputs[targets != names.IGNORED], contexts[:, -1])
    assert bool((inputs[:, 0] == names.END).all())
    for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
        for (before, after), predicted in zip(pairwise(row), target, strict=False):
            assert predicted in (after, names.END, names.IGNORED), (before, after)


@given(WORDS)
def test_what_was_encoded_is_decoded(words: list[str]) -> None:
    longest = max(map(len, words)) + 1
    rows = [names.encode(word) + [0] * (longest - len(word)) for word in words]
    assert names.decode(torch.tensor(rows)) == words


def test_a_name_ends_before_its_first_0_and_may_have_no_end() -> None:
    assert names.decode(torch.tensor([[5, 13, 0, 1], [1, 2, 3, 4], [0, 1, 1, 1]])) == [
        "em",
        "abcd",
        "",
    ]


def test_a_character_that_is_no_symbol_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'andré': expected a to z and '\.', got 'é'"):
        names.encode("andré")

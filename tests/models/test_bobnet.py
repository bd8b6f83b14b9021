import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from torchship.models import bobnet as bn
from torchship.models import data
from torchship.models.seeding import integers, seeded
from torchship.models.training import descent as training
from torchship.models.training import store
from torchship.models.training.descent import Recipe
from torchship.models.training.journal import Journal

OpenJournal = Callable[[Recipe], Journal]


def test_log_probabilities_agree_with_numpy() -> None:
    """Pixels are not scaled: with /255 the log-probabilities would be hardly apart."""
    module = seeded(bn.BobNet, 5)
    l1, l2 = (p.detach().double().numpy() for p in module.parameters())
    x = integers(6, 256, 7, 784)
    scores = np.maximum(x.double().numpy() @ l1.T, 0) @ l2.T
    scores -= scores.max(1, keepdims=True)
    expected = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_each_row_is_a_distribution() -> None:
    probabilities = bn.bobnet()(integers(7, 256, 5, 784)).exp()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))


def test_the_kept_weights_reach_what_the_json_says(digits: data.Digits) -> None:
    with torch.no_grad():
        right = bn.bobnet()(digits.images).argmax(1) == digits.labels
    reached = int(right.sum()) / 10_000
    report = store.read_report("bobnet")
    assert reached == report.metrics["test accuracy"]
    assert reached >= 0.96
    assert 0.92 < report.metrics["test accuracy from torch's initial weights"] < 0.94
    assert report.recipe["seed"] == bn.RECIPE.seed
    assert (report.recipe["steps"], report.recipe["lr"]) == (1000, 0.001)


@pytest.mark.usefixtures("digits")
def test_the_recipe_makes_the_kept_weights_again(journal_of: OpenJournal) -> None:
    trained, report = training.run(bn.RECIPE, journal_of(bn.RECIPE))
    kept = store.read_report("bobnet")
    weights, expected = trained.model.state_dict(), store.load("bobnet")
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-3)
    assert report.metrics["test accuracy"] >= 0.96
    assert report.command == kept.command


@pytest.mark.usefixtures("digits")
def test_two_trainings_are_equal_to_the_bit(journal_of: OpenJournal) -> None:
    recipe = replace(bn.RECIPE, steps=40)
    first, second = (
        training.run(recipe, journal_of(recipe))[0].model.state_dict() for _ in range(2)
    )
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_initial_weights_are_those_of_the_stream_and_of_torch() -> None:
    for weights, bounds in (
        (bn.stream_weights, (1 / math.sqrt(784 * 128), 1 / math.sqrt(128 * 10))),
        (bn.default_weights, (1 / math.sqrt(784), 1 / math.sqrt(128))),
    ):
        made = weights(torch.Generator().manual_seed(1))
        assert [tuple(t.shape) for t in made.values()] == [(128, 784), (10, 128)]
        for tensor, bound in zip(made.values(), bounds, strict=True):
            assert 0.99 * bound < float(tensor.max()) <= bound
            assert -bound <= float(tensor.min()) < -0.99 * bound
            assert abs(float(tensor.mean())) < 0.1 * bound


def test_batches_are_drawn_with_their_labels() -> None:
    images = torch.arange(50, dtype=torch.uint8)[:, None].expand(50, 784)
    digits = data.Digits(images, torch.arange(50))
    drawn = list(islice(bn.batches(digits, 20, torch.Generator().manual_seed(1)), 5))
    for inputs, labels in drawn:
        assert inputs.dtype == torch.uint8
        assert inputs.shape == (20, 784)
        assert torch.equal(inputs[:, 0].long(), labels)
    assert not torch.equal(drawn[0][1], drawn[1][1])

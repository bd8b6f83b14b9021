from collections.abc import Callable
from dataclasses import replace
from itertools import chain, islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchship.models import fizzbuzz as fb
from torchship.models.errors import NonFiniteError
from torchship.models.seeding import normal, seeded
from torchship.models.training import descent as training
from torchship.models.training import store
from torchship.models.training.descent import Recipe
from torchship.models.training.journal import Journal

OpenJournal = Callable[[Recipe], Journal]


def test_bits_come_least_significant_first() -> None:
    assert fb.encode(range(6, 7)).tolist() == [[0, 1, 1, 0, 0, 0, 0, 0, 0, 0]]
    assert fb.encode(range(512, 513)).tolist() == [[0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]
    assert fb.encode(range(1, 3)).dtype == torch.float32


@given(st.integers(0, 1023))
def test_a_number_can_be_read_from_its_bits(number: int) -> None:
    bits = fb.encode(range(number, number + 1))[0].tolist()
    assert int("".join(str(int(bit)) for bit in reversed(bits)), 2) == number


def test_words_are_those_of_the_game() -> None:
    said = " ".join(fb.WORDS[word] for word in fb.words(range(1, 16)).tolist())
    assert said == (
        "number number fizz number buzz fizz number number fizz buzz "
        "number fizz number number fizzbuzz"
    )


def test_scores_agree_with_numpy() -> None:
    module = seeded(fb.FizzBuzz, 5)
    w = {name: p.detach().double().numpy() for name, p in module.named_parameters()}
    x = normal(6, 7, 10)
    hidden = np.tanh(x.double().numpy() @ w["hidden.weight"].T + w["hidden.bias"])
    expected = hidden @ w["scores.weight"].T + w["scores.bias"]
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_kept_weights_say_100_of_100() -> None:
    scores = fb.fizzbuzz()(fb.encode(range(1, 101)))
    said = [fb.WORDS[word] for word in scores.argmax(1).tolist()]
    for number, word in zip(range(1, 101), said, strict=True):
        by_3, by_5 = number % 3 == 0, number % 5 == 0
        expected = "fizzbuzz" if by_3 and by_5 else "fizz" if by_3 else "buzz" if by_5 else "number"
        assert word == expected, number


def test_the_json_says_what_the_weights_reach() -> None:
    metrics = dict(fb.CARD.metrics())
    module = fb.fizzbuzz()
    for name, numbers in (("test accuracy", fb.TEST), ("train accuracy", fb.TRAIN)):
        right = module(fb.encode(numbers)).argmax(1) == fb.words(numbers)
        assert metrics.pop(name) == int(right.sum()) / len(numbers)
    assert metrics == {}
    recipe = store.read_report("fizzbuzz").recipe
    assert recipe["seed"] == fb.RECIPE.seed
    assert recipe["steps"] == fb.RECIPE.steps
    assert (recipe["lr"], recipe["batch"]) == (0.001, 32)


def test_the_test_numbers_are_never_trained_on() -> None:
    assert (fb.TRAIN[0], fb.TRAIN[-1]) == (101, 1023)
    assert (fb.TEST[0], fb.TEST[-1]) == (1, 100)


def test_an_epoch_holds_every_number_once_in_runs_of_32() -> None:
    drawn = fb.batches(32, torch.Generator().manual_seed(1))
    powers = torch.tensor([2.0**bit for bit in range(10)])
    epochs = []
    for _ in range(2):
        runs = []
        for inputs, targets in islice(drawn, 29):
            numbers = (inputs @ powers).int().tolist()
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            assert targets.sum(1).tolist() == [1.0] * len(numbers)
            assert torch.equal(targets.argmax(1), fb.words(range(numbers[0], numbers[-1] + 1)))
            runs.append(numbers)
        assert sorted(chain.from_iterable(runs)) == list(range(101, 1024))
        epochs.append(runs)
    assert epochs[0] != epochs[1], "the second epoch has the order of the first"


def test_the_loss_is_summed() -> None:
    scores = torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0]])
    targets = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert fb.squared_error(scores, targets).item() == 8.0


def test_two_steps_agree_with_a_backward_pass_by_hand(journal_of: OpenJournal) -> None:
    recipe = replace(fb.RECIPE, steps=2)
    trained = fb.fit(recipe, journal_of(recipe)).model.state_dict()

    generator = torch.Generator().manual_seed(recipe.seed)
    w1, b1, w2, b2 = (t.double().numpy() for t in fb.initial_weights(generator).values())
    for inputs, targets in islice(fb.batches(32, generator), 2):
        x, y = inputs.double().numpy(), targets.double().numpy()
        a = np.tanh(x @ w1.T + b1)
        d = 2 * (a @ w2.T + b2 - y)
        d_a = d @ w2 * (1 - a**2)
        w1, b1 = w1 - 0.001 * d_a.T @ x, b1 - 0.001 * d_a.sum(0)
        w2, b2 = w2 - 0.001 * d.T @ a, b2 - 0.001 * d.sum(0)
    for came, expected in zip(trained.values(), (w1, b1, w2, b2), strict=True):
        np.testing.assert_allclose(came.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_initial_weights_are_standard_normal() -> None:
    weights = fb.initial_weights(torch.Generator().manual_seed(3))
    everything = torch.cat([tensor.flatten() for tensor in weights.values()])
    assert len(everything) == 754
    assert abs(float(everything.mean())) < 0.1
    assert 0.9 < float(everything.std()) < 1.1
    assert [tuple(t.shape) for t in weights.values()] == [(50, 10), (50,), (4, 50), (4,)]


def test_a_learning_rate_of_001_is_stopped_at_the_first_loss_that_is_not_finite(
    journal_of: OpenJournal,
) -> None:
    recipe = replace(fb.RECIPE, lr=0.01)
    losses: list[float] = []

    def watched(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        loss = fb.squared_error(scores, targets)
        losses.append(loss.item())
        return loss

    generator = torch.Generator().manual_seed(recipe.seed)
    module = seeded(fb.FizzBuzz, 1)
    module.load_state_dict(fb.initial_weights(generator))
    with pytest.raises(NonFiniteError) as raised:
        training.descend(module, fb.batches(32, generator), watched, recipe, journal_of(recipe))
    assert all(np.isfinite(losses[:-1]))
    assert not np.isfinite(losses[-1])
    assert (
        f"fizzbuzz: the loss is {losses[-1]} at step {len(losses)} of 145000 (learning rate 0.01)"
        in str(raised.value)
    )
    assert raised.value.code == "non_finite"
    with pytest.raises(NonFiniteError, match=f"at step {len(losses)} of 145000"):
        training.run(recipe, journal_of(recipe))

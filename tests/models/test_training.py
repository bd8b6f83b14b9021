from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat

import pytest
import torch
from torch import Tensor, nn

from torchship.models import bobnet, data, fizzbuzz, training
from torchship.models.errors import NonFiniteError
from torchship.models.seeding import integers, seeded

SHORT = replace(fizzbuzz.RECIPE, steps=60)


def test_the_same_recipe_gives_the_same_bits_whatever_the_global_state() -> None:
    made = []
    for seed, threads in ((1, 1), (2, 2)):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        made.append(training.run(SHORT)[0].model.state_dict())
    assert all(torch.equal(tensor, made[1][name]) for name, tensor in made[0].items())


def test_another_seed_gives_other_weights() -> None:
    one = training.run(SHORT)[0].model.state_dict()
    other = training.run(replace(SHORT, seed=12))[0].model.state_dict()
    assert not any(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_global_state_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = data.Digits(integers(8, 256, 100, 784), integers(9, 10, 100).long())
    monkeypatch.setattr(data, "mnist", lambda split: digits)
    torch.set_num_threads(2)
    before = torch.random.get_rng_state()
    training.run(SHORT)
    training.run(replace(bobnet.RECIPE, steps=3))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == 2
    with pytest.raises(NonFiniteError):
        training.run(replace(SHORT, lr=0.1))
    assert torch.get_num_threads() == 2


def test_a_recipe_runs_on_one_thread() -> None:
    seen = []

    def fit(recipe: training.Recipe) -> training.Trained:
        seen.append(torch.get_num_threads())
        return training.Trained(nn.Linear(1, 1), {"loss": 0.5})

    torch.set_num_threads(2)
    _, report = training.run(replace(SHORT, fit=fit))
    assert seen == [1]
    assert report.metrics == {"loss": 0.5}
    assert report.command == "torchship train fizzbuzz --seed 11 --steps 60 --lr 0.001"
    assert report.torch == torch.__version__
    assert report.recipe["batch"] == 32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_step_of_a_loss_that_is_not_finite_is_named_and_not_taken(value: float) -> None:
    module = seeded(lambda: nn.Linear(2, 1), 1)
    snapshots: list[Tensor] = []

    def loss_of(scores: Tensor, targets: Tensor) -> Tensor:
        snapshots.append(module.weight.detach().clone())
        return scores.sum() + (value if len(snapshots) == 3 else 0.0)

    batches = repeat((torch.ones(1, 2), torch.ones(1)))
    with pytest.raises(NonFiniteError, match=f"the loss is {value} at step 3 of 9") as raised:
        training.descend(module, iter(batches), loss_of, replace(SHORT, steps=9))
    assert raised.value.exit_code == 1
    assert torch.equal(module.weight, snapshots[-1])
    assert not torch.equal(snapshots[0], snapshots[1])


def test_as_many_steps_are_taken_as_asked() -> None:
    module = seeded(lambda: nn.Linear(1, 1, bias=False), 1)
    before = module.weight.item()
    taken = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            taken.append(1)
            yield torch.ones(1, 1), torch.ones(1)

    training.descend(module, batches(), lambda scores, _: scores.sum(), replace(SHORT, steps=7))
    assert len(taken) == 7
    assert module.weight.item() == pytest.approx(before - 7 * 0.001)


def test_accuracy_counts_rows() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert training.accuracy(scores, torch.tensor([1, 0, 0])) == 2 / 3

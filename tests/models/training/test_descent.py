import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count, repeat
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from torchship.models import bobnet, data, fizzbuzz
from torchship.models.errors import NonFiniteError
from torchship.models.seeding import integers, seeded
from torchship.models.training import descent as training
from torchship.models.training.descent import Recipe
from torchship.models.training.journal import Journal

OpenJournal = Callable[[Recipe], Journal]
Logged = Callable[[Path], dict[str, list[tuple[int, float]]]]

SHORT = replace(fizzbuzz.RECIPE, steps=60)


def test_the_same_recipe_gives_the_same_bits_whatever_the_global_state(
    journal_of: OpenJournal,
) -> None:
    made = []
    for seed, threads in ((1, 1), (2, 2)):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        made.append(training.run(SHORT, journal_of(SHORT))[0].model.state_dict())
    assert all(torch.equal(tensor, made[1][name]) for name, tensor in made[0].items())


def test_another_seed_gives_other_weights(
    journal_of: OpenJournal,
) -> None:
    one = training.run(SHORT, journal_of(SHORT))[0].model.state_dict()
    other = training.run(replace(SHORT, seed=12), journal_of(SHORT))[0].model.state_dict()
    assert not any(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_global_state_is_left_as_it_was(
    monkeypatch: pytest.MonkeyPatch, journal_of: OpenJournal
) -> None:
    digits = data.Digits(integers(8, 256, 100, 784), integers(9, 10, 100).long())
    monkeypatch.setattr(data, "mnist", lambda split: digits)
    torch.set_num_threads(2)
    before = torch.random.get_rng_state()
    training.run(SHORT, journal_of(SHORT))
    training.run(replace(bobnet.RECIPE, steps=3), journal_of(SHORT))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == 2
    with pytest.raises(NonFiniteError):
        training.run(replace(SHORT, lr=0.1), journal_of(SHORT))
    assert torch.get_num_threads() == 2


def test_a_recipe_runs_on_one_thread(
    journal_of: OpenJournal,
) -> None:
    seen = []

    def fit(recipe: training.Recipe, journal: Journal) -> training.Trained:
        seen.append(torch.get_num_threads())
        return training.Trained(nn.Linear(1, 1), {"loss": 0.5})

    torch.set_num_threads(2)
    _, report = training.run(replace(SHORT, fit=fit), journal_of(SHORT))
    assert seen == [1]
    assert report.metrics == {"loss": 0.5}
    assert report.command == "torchship train fizzbuzz --seed 11 --steps 60 --lr 0.001"
    assert report.torch == torch.__version__
    assert report.recipe["batch"] == 32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_step_of_a_loss_that_is_not_finite_is_named_and_not_taken(
    value: float, journal_of: OpenJournal
) -> None:
    module = seeded(lambda: nn.Linear(2, 1), 1)
    snapshots: list[Tensor] = []

    def loss_of(scores: Tensor, targets: Tensor) -> Tensor:
        snapshots.append(module.weight.detach().clone())
        return scores.sum() + (value if len(snapshots) == 3 else 0.0)

    batches = repeat((torch.ones(1, 2), torch.ones(1)))
    with pytest.raises(NonFiniteError, match=f"the loss is {value} at step 3 of 9") as raised:
        training.descend(module, iter(batches), loss_of, replace(SHORT, steps=9), journal_of(SHORT))
    assert raised.value.exit_code == 1
    assert torch.equal(module.weight, snapshots[-1])
    assert not torch.equal(snapshots[0], snapshots[1])


def test_as_many_steps_are_taken_as_asked(
    journal_of: OpenJournal,
) -> None:
    module = seeded(lambda: nn.Linear(1, 1, bias=False), 1)
    before = module.weight.item()
    taken = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            taken.append(1)
            yield torch.ones(1, 1), torch.ones(1)

    training.descend(
        module,
        batches(),
        lambda scores, _: scores.sum(),
        replace(SHORT, steps=7),
        journal_of(SHORT),
    )
    assert len(taken) == 7
    assert module.weight.item() == pytest.approx(before - 7 * 0.001)


class Interrupted(Exception):
    pass


def noisy_fit(
    recipe: Recipe, journal: Journal, kill: Callable[[int], None] = lambda step: None
) -> training.Trained:
    """Train a net with dropout, momentum, a changing rate and a clipped gradient."""
    generator = torch.Generator().manual_seed(recipe.seed)
    module = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1))
    module.load_state_dict(
        {n: torch.randn(t.shape, generator=generator) for n, t in module.state_dict().items()}
    )

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for step in count(1):
            kill(step)
            x = torch.randn(4, 3, generator=generator)
            yield x, x.sum(1, keepdim=True)

    training.descend(
        module,
        batches(),
        nn.functional.mse_loss,
        recipe,
        journal,
        optimizer=torch.optim.AdamW(module.parameters()),
        rate=lambda recipe, step: recipe.lr / step,
        clip=0.5,
        validate=lambda: module.get_parameter("0.weight").sum().item(),
    )
    return training.Trained(module, {})


# A checkpoint lies between two of the steps that are logged, 4 apart: losses wait in it.
NOISY = Recipe("noisy", seed=3, steps=90, lr=0.1, batch=4, fit=noisy_fit, checkpoint_steps=18)


def test_an_interrupted_training_ends_at_the_same_bits(tmp_path: Path, logged: Logged) -> None:
    with Journal(NOISY.identity, tmp_path / "whole") as whole:
        expected = training.run(NOISY, whole)[0].model.state_dict()

    def kill(step: int) -> None:
        if step == 61:  # after the checkpoint at 54
            raise Interrupted

    folder = tmp_path / "interrupted"
    killed = replace(NOISY, fit=partial(noisy_fit, kill=kill))
    with pytest.raises(Interrupted), Journal(NOISY.identity, folder) as journal:
        training.run(killed, journal)
    with Journal(NOISY.identity, folder, resume=True) as journal:
        resumed = training.run(NOISY, journal)[0].model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.items())
    assert journal.history == whole.history
    in_float32 = {
        name: [(step, torch.tensor(value).item()) for step, value in points]
        for name, points in whole.history.items()
    }
    assert logged(tmp_path / "whole" / "noisy-logs") == in_float32
    assert logged(folder / "noisy-logs") == in_float32
    assert [step for step, _ in journal.history["train loss"]][:3] == [4, 8, 12]
    assert journal.history["train loss"][-1][0] == journal.history["validation loss"][-1][0] == 90


def test_a_training_killed_from_outside_goes_on_by_the_command_line(tmp_path: Path) -> None:
    """SIGKILL at a given step: nothing of Python runs after it."""
    code = """
import os, signal
from torchship.models import fizzbuzz
real = fizzbuzz.batches
def batches(*arguments):
    for step, batch in enumerate(real(*arguments), 1):
        if step == 5123:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch
fizzbuzz.batches = batches
from torchship.__main__ import main
main()
"""
    arguments = ["train", "fizzbuzz", "--steps", "5200", "--out"]
    folder = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", code, *arguments, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in folder.iterdir()) == [
        "fizzbuzz-logs",
        "fizzbuzz.checkpoint",
    ]
    torchship = [sys.executable, "-m", "torchship", *arguments]
    refused = subprocess.run([*torchship, str(folder)], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "go on from it with --resume, or throw it away with --restart" in refused.stderr
    subprocess.run([*torchship, str(folder), "--resume"], check=True)
    subprocess.run([*torchship, str(tmp_path / "whole")], check=True)
    for name in ("fizzbuzz.safetensors", "fizzbuzz.json", "fizzbuzz.png"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (folder / "fizzbuzz.checkpoint").exists()


def test_the_train_loss_is_the_mean_since_the_last_one(journal_of: OpenJournal) -> None:
    module = seeded(lambda: nn.Linear(1, 1), 1)
    recipe = replace(NOISY, steps=65)
    journal = journal_of(recipe)
    training.descend(
        module,
        ((torch.ones(1, 1), torch.tensor(float(step))) for step in count(1)),
        lambda scores, target: 0 * scores.sum() + target,  # at step n the loss is n
        recipe,
        journal,
    )
    of_three = [(step, step - 1.0) for step in range(3, 64, 3)]
    assert journal.history == {"train loss": [*of_three, (65, 64.5)]}


def test_the_rate_and_the_clip_reach_the_optimizer(journal_of: OpenJournal) -> None:
    module = seeded(lambda: nn.Linear(1, 1, bias=False), 1)
    before = module.weight.item()
    training.descend(
        module,
        repeat((torch.full((1, 1), 8.0), torch.ones(1, 1))),
        lambda scores, _: scores.sum(),
        replace(NOISY, steps=2),
        journal_of(NOISY),
        rate=lambda recipe, step: 0.5**step,
        clip=2.0,
    )
    assert module.weight.item() == pytest.approx(before - 2 * (0.5 + 0.25))


def test_accuracy_counts_rows() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    assert training.accuracy(scores, torch.tensor([1, 0, 0])) == 2 / 3

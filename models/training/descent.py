"""Gradient descent for the training recipes: reproducible, and stopped at non-finite losses."""

import contextlib
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from torchship.models.errors import NonFiniteError
from torchship.models.training.journal import Identity, Journal, State
from torchship.models.training.store import Report

LOG_STEPS = 100
"""The largest number of steps between two logged training losses."""

VALIDATIONS = 40
"""The number of validations during a training."""


@dataclass(frozen=True)
class Trained:
    """A trained module and its metrics on the task's data."""

    model: nn.Module
    metrics: dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training, and the function that runs it.

    `fit` draws every random number from generators seeded with `seed`.
    """

    name: str
    seed: int
    steps: int
    lr: float
    batch: int
    fit: Callable[["Recipe", Journal], Trained]
    optimizer: str = "SGD, no momentum"
    checkpoint_steps: int = 5000
    """Steps between two checkpoints; the result does not depend on it."""

    @property
    def identity(self) -> Identity:
        """The hyperparameters that the trained weights depend on."""
        return {
            "name": self.name,
            "seed": self.seed,
            "steps": self.steps,
            "lr": self.lr,
            "batch": self.batch,
        }

    @property
    def command(self) -> str:
        """The command line that runs this recipe."""
        return f"torchship train {self.name} --seed {self.seed} --steps {self.steps} --lr {self.lr}"


def run(recipe: Recipe, journal: Journal) -> tuple[Trained, Report]:
    """Run a recipe; return the trained module, and the report to store beside its weights.

    It uses one thread, because the rounding of a matrix product depends on the number of threads:
    the same recipe gives the same bits on the same kind of machine, resumed or not.

    Raises:
        NonFiniteError: the loss became infinite or NaN.
    """
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        trained = recipe.fit(recipe, journal)
    figures = {name: value for name, value in recipe.identity.items() if name != "name"}
    report = Report(
        name=recipe.name,
        recipe={**figures, "optimizer": recipe.optimizer},
        metrics=trained.metrics,
        command=recipe.command,
        torch=torch.__version__,
        machine=machine(),
    )
    return trained, report


def descend(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    loss_of: Callable[[Any, Tensor], Tensor],
    recipe: Recipe,
    journal: Journal,
    *,
    phase: str = "",
    optimizer: torch.optim.Optimizer | None = None,
    rate: Callable[[Recipe, int], float] | None = None,
    clip: float | None = None,
    validate: Callable[[], float] | None = None,
) -> None:
    """Train `model` in place for `recipe.steps` batches, from the journal's checkpoint if any.

    Args:
        model: what is trained, in the mode that it is in.
        batches: (inputs, targets) for ever. A resumed training skips those that it has seen.
        loss_of: `loss_of(model(inputs), targets)` is the scalar that is made smaller.
        recipe: its figures.
        journal: where losses and checkpoints go.
        phase: which of the recipe's trainings this is, if it has several.
        optimizer: plain gradient descent when left out.
        rate: (recipe, step from 1) -> learning rate; `recipe.lr` when left out.
        clip: largest norm of the gradient; larger ones are made shorter.
        validate: returns the validation loss.

    Raises:
        NonFiniteError: the loss is infinite or NaN; the message names the step. The weights are
            those before that step.
    """
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=recipe.lr)
    state = journal.resume(phase)
    done, losses = _go_on(state, model, optimizer) if state else (0, [])
    log_every = max(1, min(LOG_STEPS, recipe.steps // 20))
    validate_every = max(1, recipe.steps // VALIDATIONS)
    remaining = islice(batches, done, None)
    for step, (inputs, targets) in zip(range(done + 1, recipe.steps + 1), remaining, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate(recipe, step) if rate else recipe.lr
        loss = loss_of(model(inputs), targets)
        value = loss.item()
        if not math.isfinite(value):
            raise NonFiniteError(
                f"{recipe.name}: the loss is {value} at step {step} of {recipe.steps} "
                f"(learning rate {recipe.lr}); nothing was saved, try a smaller learning rate"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(value)
        last = step == recipe.steps
        if step % log_every == 0 or last:
            journal.log(step, {"train loss": sum(losses) / len(losses)}, phase)
            losses.clear()
        if validate and (step % validate_every == 0 or last):
            journal.log(step, {"validation loss": validate()}, phase)
        if step % recipe.checkpoint_steps == 0 or last:
            journal.checkpoint(
                {
                    "step": step,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "random": torch.random.get_rng_state(),
                    "losses": list(losses),
                },
                phase,
            )


def _go_on(
    state: State, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, list[float]]:
    """Restore a checkpoint; return its step and the losses that are not logged yet."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.random.set_rng_state(state["random"])
    return int(state["step"]), list(state["losses"])


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return the share of rows of `scores` [batch, class] that are largest at `labels` [batch]."""
    return int((scores.argmax(dim=1) == labels).sum()) / len(labels)


def machine() -> str:
    """Return the processor and the instruction set that torch's kernels use on it."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

"""What the training recipes share: the loop with its guard and its bar, and repeatable runs."""

import contextlib
import math
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from torchship.models.errors import NonFiniteError
from torchship.models.store import Report

REFRESH = 100
"""Steps between two updates of the progress bar."""


@dataclass(frozen=True)
class Trained:
    """A trained module and the figures it reached on the task's own data."""

    model: nn.Module
    metrics: dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """The figures of a training, and the function that follows them.

    `fit` draws every random number from generators seeded with `seed`.
    """

    name: str
    seed: int
    steps: int
    lr: float
    batch: int
    fit: Callable[["Recipe"], Trained]

    @property
    def command(self) -> str:
        """The command line that runs this recipe."""
        return f"torchship train {self.name} --seed {self.seed} --steps {self.steps} --lr {self.lr}"


def run(recipe: Recipe) -> tuple[Trained, Report]:
    """Follow a recipe; return the trained module and the report to keep beside its weights.

    It runs on one thread, because the rounding of a matrix product depends on how many share it:
    the same recipe gives the same bits on the same kind of machine.

    Raises:
        NonFiniteError: the loss became infinite or NaN.
    """
    with _one_thread():
        trained = recipe.fit(recipe)
    report = Report(
        name=recipe.name,
        recipe={
            "seed": recipe.seed,
            "steps": recipe.steps,
            "lr": recipe.lr,
            "batch": recipe.batch,
            "optimizer": "SGD, no momentum",
        },
        metrics=trained.metrics,
        command=recipe.command,
        torch=torch.__version__,
        machine=machine(),
    )
    return trained, report


def descend(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    recipe: Recipe,
    label: str | None = None,
) -> None:
    """Train `model` in place: plain gradient descent for `recipe.steps` batches.

    `loss_of(model(inputs), targets)` is the scalar that is made smaller.

    Raises:
        NonFiniteError: the loss is infinite or NaN; the message names the step. The weights are
            those before that step.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr)
    with _progress() as progress:
        task = progress.add_task(label or recipe.name, total=recipe.steps, loss="")
        for step, (inputs, targets) in zip(range(1, recipe.steps + 1), batches, strict=False):
            loss = loss_of(model(inputs), targets)
            value = loss.item()
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"{recipe.name}: the loss is {value} at step {step} of {recipe.steps} "
                    f"(learning rate {recipe.lr}); nothing was saved, try a smaller learning rate"
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % REFRESH == 0 or step == recipe.steps:
                progress.update(task, completed=step, loss=f"loss {value:.4f}")


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


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )

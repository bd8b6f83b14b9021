"""The journal of a training: progress bar, logs, plot and checkpoint."""

import hashlib
import io
import math
import shutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from torchship.models.errors import CheckpointError, ExtraMissingError, NonFiniteError, OutputError
from torchship.models.training.store import replace_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Identity = dict[str, int | float | str]
"""Name and hyperparameters of a recipe; a checkpoint belongs to one."""

History = dict[str, list[tuple[int, float]]]
"""The values of each series, as (step, value) in order."""

State = dict[str, Any]
"""The content of a checkpoint: numbers, strings, tensors, and dicts and lists of them."""


DIGEST = 32
"""Bytes of the SHA-256 at the beginning of a checkpoint, of all that follows."""


class Journal:
    """The record of one training, in a folder; use it in a `with`.

    - `NAME-logs/`: TensorBoard's event files, every value of `log`.
    - `NAME.png`: the losses over the steps, written at the end, also of a training that failed.
    - `NAME.checkpoint`: what an interrupted training goes on from; `finish` removes it.

    A training of several phases (two models, one after the other) names the phase in each call.
    """

    def __init__(
        self, identity: Identity, folder: Path, resume: bool = False, restart: bool = False
    ) -> None:
        """Open the record of the training `identity["name"]` of `identity["steps"]` steps.

        `resume` goes on from the checkpoint, `restart` throws it away.

        Raises:
            CheckpointError: there is a checkpoint, and neither was chosen; both were; there is none
                to resume from; it is damaged, or of a training with other figures.
            ExtraMissingError: a package of the extra `train` is not installed.
            OutputError: a file or folder in `folder` is in the way.
        """
        _require_extra()
        self.name = str(identity["name"])
        self._identity = identity
        self._folder = folder
        self._file = folder / f"{self.name}.checkpoint"
        self._phases: dict[str, State] = {}
        self.history: History = {}
        if resume and restart:
            raise CheckpointError("--resume and --restart: expected one of them, got both")
        if resume:
            self._restore()
        elif self._file.exists() and not restart:
            raise CheckpointError(
                f"{self._file} is of a training that was interrupted: "
                "go on from it with --resume, or throw it away with --restart"
            )
        try:
            if not resume:
                self._file.unlink(missing_ok=True)
            self._writer = _writer(folder / f"{self.name}-logs", self.history)
        except OSError as error:
            raise OutputError(f"cannot write '{error.filename}': {error.strerror}") from None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[value]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "Journal":
        """Show the progress bar."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the logs and write the plot, whatever happened."""
        self._progress.stop()
        self._writer.close()
        if isinstance(error, NonFiniteError):
            self._file.unlink(missing_ok=True)  # resuming from it would fail at the same step
        if self.history:
            replace_file(self._folder / f"{self.name}.png", plot(self.name, self.history))

    def log(self, step: int, values: Mapping[str, float], phase: str = "") -> None:
        """Record values at a step; the first is shown beside the bar, losses are in the plot."""
        for name, value in values.items():
            series = f"{phase}: {name}" if phase else name
            self.history.setdefault(series, []).append((step, value))
            self._writer.add_scalar(_tag(series), value, step)
        if phase not in self._tasks:
            total = int(self._identity["steps"])
            self._tasks[phase] = self._progress.add_task(phase or self.name, total=total, value="")
        name, value = next(iter(values.items()))
        self._progress.update(self._tasks[phase], completed=step, value=f"{name} {value:.4f}")

    def checkpoint(self, state: State, phase: str = "") -> None:
        """Write the state of a phase, and everything recorded so far, for `resume`."""
        self._phases[phase] = state
        memory = io.BytesIO()
        content = {
            "identity": self._identity,
            "phases": self._phases,
            "history": self.history,
        }
        torch.save(content, memory)
        data = memory.getvalue()
        replace_file(self._file, hashlib.sha256(data).digest() + data)
        self._writer.flush()

    def resume(self, phase: str = "") -> State | None:
        """Return the state of an interrupted phase, or None to start it from the beginning."""
        return self._phases.get(phase)

    def finish(self) -> None:
        """Remove the checkpoint, because the weights have been saved."""
        self._file.unlink(missing_ok=True)

    def _restore(self) -> None:
        try:
            whole = self._file.read_bytes()
        except FileNotFoundError:
            raise CheckpointError(f"{self._file} is not there: nothing to resume from") from None
        except OSError as error:
            raise CheckpointError(f"{self._file} cannot be read: {error.strerror}") from None
        digest, data = whole[:DIGEST], whole[DIGEST:]
        if hashlib.sha256(data).digest() != digest:
            raise CheckpointError(f"{self._file} is damaged: its content has another SHA-256")
        content = torch.load(io.BytesIO(data), weights_only=True)
        actual = content["identity"]
        self._phases = content["phases"]
        self.history = content["history"]
        if actual != self._identity:
            raise CheckpointError(
                f"{self._file} is of a training with {_figures(actual)}, expected "
                f"{_figures(self._identity)}: resume with the same figures"
            )


def _figures(identity: Identity) -> str:
    return ", ".join(f"{name} {value}" for name, value in identity.items())


def _require_extra() -> None:
    try:
        import_module("matplotlib")
        import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise ExtraMissingError(
            f'training needs more packages ({error}): pip install "torchship[train]"'
        ) from None


def _writer(folder: Path, history: History) -> "SummaryWriter":
    """Return a writer of new logs that start with the records up to the checkpoint."""
    from torch.utils.tensorboard import SummaryWriter

    if folder.exists():
        shutil.rmtree(folder)
    writer = SummaryWriter(str(folder))
    for series, points in history.items():
        for step, value in points:
            writer.add_scalar(_tag(series), value, step)
    return writer


def _tag(series: str) -> str:
    return series.replace(": ", "/")


def plot(title: str, history: History) -> bytes:
    """Return a PNG of every series whose name ends in "loss", over the steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(title=title, xlabel="step", ylabel="loss")
    positive = True
    for name, points in history.items():
        if name.endswith("loss"):
            finite = [(step, value) for step, value in points if math.isfinite(value)]
            positive = positive and all(value > 0 for _, value in finite)
            if finite:
                axes.plot(*zip(*finite, strict=True), label=name)
    if positive:
        axes.set_yscale("log")
    if axes.lines:
        axes.legend()
    axes.grid(visible=True, which="both", alpha=0.3)
    memory = io.BytesIO()
    figure.savefig(memory, format="png", dpi=120)
    return memory.getvalue()

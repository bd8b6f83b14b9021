"""The fused gates of an LSTM beside the plain formula: `python bench/lstm_pointwise.py`.

Each round times both once, in turn, so that a noisy moment of the machine hits both; the table
shows the median over the rounds of each round's median in microseconds, and the ratio. Rows: the
operator alone (hidden size 128), its gradients, and the models `lstm` and `lstm-fused`, scripted.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from torchship.models import operators, recurrent
from torchship.models.cells import lstm_pointwise
from torchship.models.seeding import normal
from torchship.script.exporting.runtimes import median_us
from torchship.script.runtime import torchscript

HIDDEN = 128
Pair = tuple[Tensor, Tensor]


def fused(gates: Tensor, c: Tensor) -> Pair:
    h, c_next = torch.ops.torchship.lstm_pointwise(gates, c)
    return h, c_next


def forward(operator: Callable[[Tensor, Tensor], Pair], batch: int) -> Callable[[], object]:
    gates, c = normal(1, batch, 4 * HIDDEN), normal(2, batch, HIDDEN)
    return lambda: operator(gates, c)


def training(operator: Callable[[Tensor, Tensor], Pair], batch: int) -> Callable[[], object]:
    gates = normal(1, batch, 4 * HIDDEN).requires_grad_()
    c = normal(2, batch, HIDDEN).requires_grad_()
    grads = normal(3, batch, HIDDEN), normal(4, batch, HIDDEN)
    return lambda: torch.autograd.grad(operator(gates, c), (gates, c), grads)


def model(make: Callable[[], recurrent.Recurrent], batch: int) -> Callable[[], object]:
    scripted = torchscript.compile_module(make(), "script", {})
    x = normal(1, batch, 16, recurrent.INPUT)
    return lambda: scripted(x)


def rows() -> dict[str, tuple[bool, Callable[[], object], Callable[[], object]]]:
    """Return, for each row, whether it needs gradients, the plain call and the fused one."""
    found: dict[str, tuple[bool, Callable[[], object], Callable[[], object]]] = {}
    for batch in (1, 32, 1024):
        pair = forward(lstm_pointwise, batch), forward(fused, batch)
        found[f"forward, batch {batch}"] = (False, *pair)
    for batch in (1, 32, 1024):
        both = training(lstm_pointwise, batch), training(fused, batch)
        found[f"forward and backward, batch {batch}"] = (True, *both)
    for batch in (1, 64):
        models = model(recurrent.make_lstm, batch), model(recurrent.make_lstm_fused, batch)
        found[f"lstm, 16 steps, batch {batch}"] = (False, *models)
    return found


def main(rounds: int = 7, json_output: Path | None = None) -> None:
    """Print the table; write the figures as JSON too if a path is given."""
    torchscript.configure()
    operators.load()
    figures = {}
    for name, (gradients, *calls) in rows().items():
        taken: tuple[list[float], list[float]] = ([], [])
        with nullcontext() if gradients else torch.inference_mode():
            for _ in track(range(rounds), name, transient=True):
                for call, durations in zip(calls, taken, strict=True):
                    durations.append(median_us(call))
        plain, with_operator = map(statistics.median, taken)
        figures[name] = {"plain_us": plain, "fused_us": with_operator}
    title = (
        f"median of {rounds} rounds, 1 thread, {torch.backends.cpu.get_cpu_capability()}; "
        "microseconds"
    )
    table = Table("", "plain", "fused", "plain / fused", title=title, title_justify="left")
    for name, entry in figures.items():
        plain, with_operator = entry["plain_us"], entry["fused_us"]
        ratio = plain / with_operator
        table.add_row(name, f"{plain:.1f}", f"{with_operator:.1f}", f"{ratio:.2f}")
    Console().print(table)
    if json_output:
        json_output.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    typer.run(main)

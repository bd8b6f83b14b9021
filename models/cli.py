"""The commands `torchship models` and `torchship train`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from torchship.models import registry
from torchship.models.training import descent as training
from torchship.models.training import store
from torchship.models.training.journal import Journal

app = typer.Typer(no_args_is_help=True)


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program.")] = False,
) -> None:
    """List our models: parameters, task, figures reached and source.

    Example: torchship models --json
    """
    rows = []
    for name in registry.names():
        card = registry.get(name)
        parameters = sum(p.numel() for p in card.factory().parameters())
        rows.append((card, parameters, dict(card.metrics())))
    if as_json:
        listed = [
            {
                "name": card.name,
                "parameters": parameters,
                "task": card.description,
                "metrics": metrics,
                "source": card.source,
                "trainable": card.name in registry.trainable(),
            }
            for card, parameters, metrics in rows
        ]
        typer.echo(json.dumps(listed, indent=2))
        return
    table = Table("model", "parameters", "task", "reached", "source")
    table.columns[1].justify = "right"
    for card, parameters, metrics in rows:
        reached = "\n".join(
            f"{metric} {figure(metric, value)}" for metric, value in metrics.items()
        )
        table.add_row(card.name, f"{parameters:,}", card.description, reached, card.source)
    Console().print(table)


def figure(metric: str, value: float) -> str:
    """Return a metric's value as it is read: an accuracy in percent, anything else as a number."""
    return f"{value:.2%}" if "accuracy" in metric else f"{value:.4g}"


@app.command()
def train(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(registry.trainable())}.")],
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Default: the recipe's.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Default: the recipe's.")] = None,
    lr: Annotated[
        float | None, typer.Option(min=0.0, help="Learning rate. Default: the recipe's.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for NAME.safetensors and NAME.json. Default: the current directory; "
            "the weights that come with the package stay as they are."
        ),
    ] = Path(),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw the checkpoint in --out away.")
    ] = False,
) -> None:
    """Train one of our models and save its weights, with a JSON of how they were made.

    Beside them: NAME.png, the losses over the steps, and NAME-logs/ for TensorBoard. A training
    that was interrupted leaves NAME.checkpoint, from which --resume goes on to the same weights.

    Example: torchship train fizzbuzz --out weights
    """
    recipe = registry.recipe(name)
    recipe = dataclasses.replace(
        recipe,
        seed=recipe.seed if seed is None else seed,
        steps=recipe.steps if steps is None else steps,
        lr=recipe.lr if lr is None else lr,
    )
    store.prepare(out)
    with Journal(recipe.identity, out, resume, restart) as journal:
        trained, report = training.run(recipe, journal)
        path = store.save(trained.model.state_dict(), report, out)
        journal.finish()
    for metric, value in report.metrics.items():
        typer.echo(f"{metric}: {figure(metric, value)}")
    typer.echo(f"saved {path} and {path.with_suffix('.json').name}")

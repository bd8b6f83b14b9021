"""`torchship ray deploy`: every argument of `build_app` is an option."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated, Any

import orjson
import typer

from torchship.script.errors import UsageError
from torchship.serve.options import parameter
from torchship.serve.ray.arguments import SETTINGS, Arguments
from torchship.serve.settings import Settings

app = typer.Typer()
ray = typer.Typer(
    help="Serve archives on a Ray cluster: many replicas on many machines.", no_args_is_help=True
)
app.add_typer(ray, name="ray")
ray.callback()(lambda: None)  # without it, typer drops the name of a single command

# What an option of a deploy is, besides the arguments: its type, default and description.
PLACE: dict[str, tuple[Any, Any, str]] = {
    "name": (str, "torchship", "Name of the application; one of that name is replaced."),
    "address": (str, None, "The cluster's address. [default: RAY_ADDRESS, or the local one]"),
    "route_prefix": (str, "/", "Path below which the application answers."),
    "host": (str | None, None, "Address that Ray's HTTP proxies listen on. [default: 127.0.0.1]"),
    "port": (int | None, None, "Port of Ray's HTTP proxies. [default: 8000]"),
    "grpc_port": (int | None, None, "Port of Ray's gRPC proxies; without it there is no gRPC."),
    "every_node": (bool, False, "Have a proxy on every node that has replicas, not on the head."),
    "timeout": (float, 600.0, "Seconds that the application may take to run."),
    "json": (bool, False, "Print JSON."),
}


def deploy(json: bool, timeout: float, address: str | None, **flags: Any) -> None:
    """Deploy archives as an application of Ray Serve.

    Each replica runs the golden cases of its archives before it takes requests. If one fails, the
    command says why and ends with an error, and what the application served before goes on.

    Examples:

        torchship ray deploy models/ --replicas 2 --max-replicas 8

        torchship ray deploy policy.pt --replicas 3 --redis redis://cache:6379/0
    """
    try:
        from torchship.serve.ray.deploy import Place
        from torchship.serve.ray.deploy import deploy as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise UsageError("`torchship ray` needs Ray: pip install 'torchship[ray]'") from None
    place = Place(
        address=address or os.environ.get("RAY_ADDRESS") or "auto",
        seconds=timeout,
        **{name: flags.pop(name) for name in list(flags) if name in PLACE},
    )
    result = run({k: v for k, v in flags.items() if v is not None and v != []}, place)
    if json:
        print(orjson.dumps(asdict(result), option=orjson.OPT_INDENT_2).decode())
        return
    print(f"{result.application}: {', '.join(result.models)}")
    print(f"replicas: {result.replicas}")
    print(f"url: {result.url}")


def _parameters() -> Iterator[inspect.Parameter]:
    """Yield the command's parameters: one for each argument, setting, and option of the place."""
    for name, field in Arguments.model_fields.items():
        yield parameter(name, field)
    for name in SETTINGS:
        yield parameter(name, Settings.model_fields[name])
    for name, (kind, default, text) in PLACE.items():
        option = typer.Option(help=text, show_default=default is not None and default is not False)
        annotation: Any = Annotated[kind, option]
        if kind is bool:
            annotation = Annotated[bool, typer.Option(f"--{name.replace('_', '-')}", help=text)]
        elif default is None:
            annotation = Annotated[kind | None, option]
        yield inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )


deploy.__signature__ = inspect.Signature(list(_parameters()))  # type: ignore[attr-defined]
deploy.__annotations__ = {}
ray.command()(deploy)

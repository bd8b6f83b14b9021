"""`torchship serve`: every field of the settings is an option."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from io import UnsupportedOperation
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from torchship.serve.options import parameter
from torchship.serve.settings import SettingInfo, Settings, read_settings, show
from torchship.serve.system.standard_streams import take_over

app = typer.Typer()


def serve(show_config: bool, json: bool, **flags: object) -> None:
    """Serve archives over HTTP: Open Inference Protocol V2, JSON and binary tensors.

    The server is ready when every archive has reproduced its golden cases.
    Each option can also be set as TORCHSHIP_SERVE_<NAME> in the environment,
    or in the TOML file that --config names. Flags win over the environment,
    the environment over the file. --show-config prints every setting and its source.

    Example: torchship serve archives/ --port 8000
    """
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in flags.items()
        if value is not None and value != []
    }
    settings = read_settings(given)
    if show_config:
        _print(show(settings, given), json)
        return
    from torchship.serve.process.supervisor import run

    with suppress(UnsupportedOperation):  # the caller replaced stdout by a stream without a file
        take_over(sys.stdout.fileno())
    run(settings)


def _print(settings: list[SettingInfo], json: bool) -> None:
    if json:
        content = {s.name: asdict(s) for s in settings}
        print(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())
        return
    table = Table("setting", "value", "from", "what it is")
    for setting in settings:
        value = "" if setting.value is None else setting.value
        table.add_row(setting.name, str(value), setting.source, setting.description)
    Console().print(table, markup=False)


def _parameters() -> Iterator[inspect.Parameter]:
    """Yield the command's parameters: one for each setting, and the two of `--show-config`."""
    for name, field in Settings.model_fields.items():
        yield parameter(name, field)
    for name, text in (
        ("show_config", "Print every setting and where it comes from, and end."),
        ("json", "With --show-config: print JSON."),
    ):
        option = typer.Option(f"--{name.replace('_', '-')}", help=text)
        yield inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option]
        )


serve.__signature__ = inspect.Signature(list(_parameters()))  # type: ignore[attr-defined]
serve.__annotations__ = {}
app.command()(serve)

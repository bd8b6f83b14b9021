"""Fields of settings as command-line options."""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path
from typing import Annotated, Literal, Union

import typer
from pydantic.fields import FieldInfo

# typer parses these types; all others reach the settings as text.
READ = (int, float, bool, str, Path)


def parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """Return the command-line parameter for a setting."""
    text = field.description or name
    text = f"{text[0].upper()}{text[1:]}."
    default: bool | str = False
    if field.default is not None and field.default != ():
        default = str(field.default) if str(field.default) else '""'
    info: object
    if name in ("paths", "models"):
        info = typer.Argument(metavar="PATH...", help=text, show_default=False)
    else:
        info = typer.Option(help=text, show_default=default)
    kind: object = _read_as(field.annotation)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, info],  # type: ignore[operator]
    )


def _read_as(annotation: object) -> object:
    """Return the type with which typer parses a setting; a tuple becomes a repeated option."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        return _read_as(kinds[0]) if len(kinds) == 1 else str
    if origin in (tuple, list):
        return list[_read_as(arguments[0])]  # type: ignore[misc]
    if origin is Literal or annotation in READ:
        return annotation
    return str

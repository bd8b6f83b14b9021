"""The command line: the commands of all packages, and the mapping of errors to exit codes."""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import typer

from torchship.cpp_runner.binary import become
from torchship.models.errors import ModelsError
from torchship.script.errors import OutOfMemoryError, TorchShipError
from torchship.script.runtime import printing

INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h


ROOMS = {
    "script": "script.cli",
    "inspect": "script.cli",
    "keygen": "script.cli",
    "sign": "script.cli",
    "verify": "agreement",
    "serve": "serve.cli",
    "ray": "serve.ray.cli",
    "push": "transfer",
    "pull": "transfer",
    "compile": "native.cli",
    "models": "models.cli",
    "train": "models.cli",
    "demo": "demo",
    "play": "play",
    "score": "score.cli",
    "cmake-prefix": "cpp_runner.cli",
}
"""The module of each command, which has its `app`; in the order of the help."""


def application(command: str = "") -> typer.Typer:
    """Return the command line with all commands, or with those of the module of one command.

    What other commands need is not imported for it: the start of most is the import of libraries,
    and the supervisor that `torchship serve` becomes must not import torch.
    """
    wanted = ROOMS.get(command)
    names = dict.fromkeys(ROOMS.values()) if wanted is None else [wanted]
    return _with(*(import_module(f"torchship.{name}").app for name in names))


def _with(*rooms: typer.Typer) -> typer.Typer:
    app = typer.Typer(
        name="torchship",
        help="Ship a PyTorch model as one archive that proves itself in every runtime.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback()(_options)  # without it, typer drops the name of a single command
    for room in rooms:
        app.registered_commands += room.registered_commands
        app.registered_groups += room.registered_groups
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"torchship {version('torchship')}")
        raise typer.Exit


_VERSION = typer.Option(
    "--version", callback=_print_version, is_eager=True, help="Print the version."
)


def _options(_: Annotated[bool, _VERSION] = False) -> None:
    """Take the options that come before a command."""


def main() -> None:
    """Run the command line; exit codes as in docs/agreement.md."""
    # `torchship-runner` calls this if it cannot find the binary, or LibTorch, by itself.
    if sys.argv[1:2] == ["runner"]:
        become(sys.argv[2:])
    printing.install()
    try:
        application(next(iter(sys.argv[1:]), ""))()
    except (TorchShipError, ModelsError) as error:
        print(f"torchship: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        from torchship.script.runtime.out_of_memory import ran_out

        if ran_out(error):
            print("torchship: error: there is no memory for this", file=sys.stderr)
            sys.exit(OutOfMemoryError.exit_code)
        # A bug of ours. Exit code 1 would mean that an archive does not agree.
        traceback.print_exc()
        sys.exit(INTERNAL_ERROR)


if __name__ == "__main__":
    main()

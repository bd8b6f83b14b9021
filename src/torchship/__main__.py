"""The command line: the commands of all packages, and the mapping of errors to exit codes."""

from __future__ import annotations

import sys
import traceback
from importlib.metadata import version
from typing import Annotated

import typer

from torchship.cpp_runner.binary import become
from torchship.models.errors import ModelsError
from torchship.script.errors import OutOfMemoryError, TorchShipError
from torchship.script.runtime import printing

INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h


def application(command: str = "") -> typer.Typer:
    """Return the command line with all commands; for `serve`, with that command alone.

    The supervisor that `torchship serve` becomes must not import torch, which other commands need.
    """
    import torchship.serve.cli

    if command == "serve":
        return _with(torchship.serve.cli.app)
    import torchship.agreement
    import torchship.cpp_runner.cli
    import torchship.demo
    import torchship.models.cli
    import torchship.native.cli
    import torchship.play
    import torchship.score.cli
    import torchship.script.cli
    import torchship.serve.ray.cli
    import torchship.transfer

    return _with(
        torchship.script.cli.app,
        torchship.agreement.app,
        torchship.serve.cli.app,
        torchship.serve.ray.cli.app,
        torchship.transfer.app,
        torchship.native.cli.app,
        torchship.models.cli.app,
        torchship.demo.app,
        torchship.play.app,
        torchship.score.cli.app,
        torchship.cpp_runner.cli.app,
    )


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

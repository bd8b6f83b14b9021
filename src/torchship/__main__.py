"""The command line: every room's commands, and the one place where errors get exit codes."""

from __future__ import annotations

import sys
import traceback

import typer

from torchship.models.errors import ModelsError
from torchship.script import printing
from torchship.script.errors import TorchShipError

INTERNAL_ERROR = 70  # EX_SOFTWARE of sysexits.h


def application() -> typer.Typer:
    """Return the command line with every room's commands."""
    import torchship.agreement
    import torchship.cpp_runner.cli
    import torchship.demo
    import torchship.models.cli
    import torchship.play
    import torchship.script.cli
    import torchship.serve.cli

    app = typer.Typer(
        name="torchship",
        help="Ship a PyTorch model as one archive that proves itself in four runtimes.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    for room in (
        torchship.script.cli,
        torchship.agreement,
        torchship.serve.cli,
        torchship.models.cli,
        torchship.demo,
        torchship.play,
        torchship.cpp_runner.cli,
    ):
        app.registered_commands += room.app.registered_commands
    return app


def main() -> None:
    """Run the command line; exit codes as in docs/agreement.md."""
    printing.install()
    try:
        application()()
    except (TorchShipError, ModelsError) as error:
        print(f"torchship: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:
        # A fault of ours: the trace is for us. 1 would say that an archive does not agree.
        traceback.print_exc()
        sys.exit(INTERNAL_ERROR)


if __name__ == "__main__":
    main()

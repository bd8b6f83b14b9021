"""The command line as a whole: which module has which command."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from torchship.__main__ import ROOMS, application


def test_every_command_has_its_module() -> None:
    command = get_command(application())
    assert sorted(getattr(command, "commands")) == sorted(ROOMS)  # noqa: B009  # typer's group


@pytest.mark.parametrize("name", ROOMS)
def test_a_command_alone_says_the_same_as_among_all(name: str) -> None:
    alone, among = (
        CliRunner().invoke(application(wanted), [name, "--help"]) for wanted in (name, "")
    )
    assert (alone.exit_code, alone.output) == (among.exit_code, among.output)
    assert alone.exit_code == 0


@pytest.mark.parametrize(("name", "unwanted"), [("inspect", "sympy"), ("cmake-prefix", "torch")])
def test_a_command_does_not_wait_for_what_others_import(name: str, unwanted: str) -> None:
    imported = "import sys; from torchship.__main__ import application; application(sys.argv[1]); "
    asked = f"print({unwanted!r} in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", imported + asked, name], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"

"""How modules of ours run as processes of their own."""

from __future__ import annotations

import sys

# `python -m` looks for every module in the current folder first, and the console script does not:
# whoever may write to the folder of models, where a server may be started, would run code in it.
_RUN = """
import sys
sys.path[:] = [folder for folder in sys.path if folder]
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def command_of(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this Python, and nothing of the current folder."""
    return [sys.executable, "-c", _RUN, module, *arguments]

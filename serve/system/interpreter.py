"""Python processes of our own: they import what this one would, and nothing beside it."""

from __future__ import annotations

import sys


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs `main` of a module of ours in another process.

    `python -m` would look for every module in the current folder first. That may be the folder of
    models, and whoever may put a file there must not have it run.
    """
    start = (
        f"import sys; sys.path[:] = {sys.path!r}; del sys.argv[0]; "
        "from importlib import import_module; import_module(sys.argv[0]).main()"
    )
    return [sys.executable, "-c", start, module, *arguments]

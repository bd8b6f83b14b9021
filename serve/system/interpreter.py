"""Child Python processes with the import path of this one, without the current folder."""

from __future__ import annotations

import sys
from contextlib import suppress


def command(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs `main` of one of our modules in a new process.

    `python -m` would look for every module in the current folder first. That may be the folder of
    models, and a file that somebody put there must not be run as code.
    """
    start = (
        f"import sys; sys.path[:] = {sys.path!r}; del sys.argv[0]; "
        "from importlib import import_module; import_module(sys.argv[0]).main()"
    )
    return [sys.executable, "-c", start, module, *arguments]


def name_process(name: str) -> None:
    """Set the name that `ps` and `top` show on Linux; at most 15 characters."""
    with suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(name)

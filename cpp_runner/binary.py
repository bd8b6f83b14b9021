"""Finds the installed `torchship-runner` binary, and runs it in place of this process."""

from __future__ import annotations

import os
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

_BINARY = Path("torchship", "cpp_runner", "bin", "torchship-runner")


def runner_path() -> Path:
    """Return the absolute path of the binary that belongs to the installed package.

    The package's own list of files says where it is. PATH is not asked: the console script of the
    same name would find itself.

    Raises:
        FileNotFoundError: the package, or its binary, is not installed.
    """
    try:
        installed = files("torchship") or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if Path(file).parts[-len(_BINARY.parts) :] == _BINARY.parts:
            path = Path(str(file.locate())).resolve()
            if os.access(path, os.X_OK):
                return path
    raise FileNotFoundError(
        "torchship-runner is not installed; build it with "
        "`pip install torch==2.13.0` and then `pip install --no-build-isolation -e .`"
    )


def main() -> None:
    """Become the binary, with this process's arguments: the console script `torchship-runner`."""
    try:
        path = str(runner_path())
    except FileNotFoundError as error:
        sys.exit(f"torchship-runner: error: {error}")
    os.execv(path, [path, *sys.argv[1:]])

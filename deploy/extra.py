"""Prints what an extra of pyproject.toml needs, as a file of requirements for pip.

    python deploy/extra.py pyproject.toml bench

`make bench` installs it beside the project's environment, which `pip install .[bench]` would build
anew and might change.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")


def requirements(project: Path, extra: str) -> list[str]:
    """Return the requirements of an extra, as they are written."""
    extras: dict[str, list[str]] = tomllib.loads(project.read_text())["project"][
        "optional-dependencies"
    ]
    return extras[extra]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2])))

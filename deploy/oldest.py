"""Prints the oldest versions that pyproject.toml allows, as a file of requirements for pip.

    python deploy/oldest.py pyproject.toml

`make test-oldest` installs them and runs the server's tests there: a lower bound that nobody runs
is a guess. torch is left out: its lower bound is the release that `make` installs anyway.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from packaging.requirements import Requirement

tomllib = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
EXTRAS = ("redis", "otel")


def oldest(project: Path) -> list[str]:
    """Return `name==version` for every dependency of the server, by its lower bound."""
    table = tomllib.loads(project.read_text())["project"]
    lines = [*table["dependencies"]]
    for extra in EXTRAS:
        lines += table["optional-dependencies"][extra]
    found = []
    for requirement in map(Requirement, lines):
        if requirement.name == "torch" or (
            requirement.marker and not requirement.marker.evaluate()
        ):
            continue
        [lower] = [s.version for s in requirement.specifier if s.operator == ">="]
        found.append(f"{requirement.name}=={lower}")
    return found


if __name__ == "__main__":
    print("\n".join(oldest(Path(sys.argv[1]))))

"""The input files of a run, and what their outputs are called."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torchship.score.errors import RunError
from torchship.score.opening import KINDS
from torchship.score.tables import check_regular, named


@dataclass(frozen=True)
class InputFile:
    """An input file."""

    path: Path
    output: Path
    """The name of its output below the output folder."""

    def identity(self) -> dict[str, object]:
        """Return what tells whether the file has changed.

        Raises:
            TableError: there is no such file any more.
        """
        status = check_regular(self.path)
        return {
            "input": os.fsdecode(self.path),
            "size": status.st_size,
            "modified_ns": status.st_mtime_ns,
        }


def find_inputs(patterns: Sequence[str], output: Path, ending: str) -> list[InputFile]:
    """Return the files that match, in the order of their names.

    A folder stands for the tables in it. Files below the output folder are what earlier runs wrote,
    and no inputs.

    Raises:
        RunError: nothing matches a pattern, two files would have the same output, or an output
            would lie among the inputs.
    """
    own = output.resolve()
    found: dict[Path, InputFile] = {}
    for pattern in patterns:
        root, names = _matches(pattern)
        if root.resolve().is_relative_to(own):
            raise RunError(
                f"--output {named(output)} holds the inputs of --input {named(Path(pattern))}: "
                "choose another folder"
            )
        paths = [Path(name) for name in sorted(names)]
        paths = [path for path in paths if not path.resolve().is_relative_to(own)]
        if not paths:
            raise RunError(f"--input {named(Path(pattern))}: there is no such file")
        for path in paths:
            name = Path(os.path.relpath(path, root)).with_suffix(f".{ending}")
            file = InputFile(path, name)
            if found.setdefault(name, file).path.resolve() != path.resolve():
                raise RunError(
                    f"{named(found[name].path)} and {named(path)} would both become "
                    f"{named(output / name)}: score them into two folders"
                )
    return list(found.values())


def _matches(pattern: str) -> tuple[Path, list[str]]:
    """Return the folder before the first wildcard, and the names of the files that match."""
    if os.path.isdir(pattern):
        names = [entry.path for entry in os.scandir(pattern) if not entry.name.startswith(".")]
        return Path(pattern), [name for name in names if Path(name).suffix.lower() in KINDS]
    if os.path.lexists(pattern):  # a name may have the characters of a wildcard
        return Path(pattern).parent, [pattern]
    parts = Path(pattern).parts
    fixed = next((n for n, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    names = glob.glob(pattern, recursive=True)
    return Path(*parts[:fixed]), [name for name in names if not os.path.isdir(name)]

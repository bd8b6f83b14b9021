"""Finds the shared libraries that are built with this package.

`script.runtime.operators` finds those of operators for archives, by the names in their manifests.
`models` must not import `script`, so the two share only the place of the files in the package.
"""

import os
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from torchship.models.errors import LibraryMissingError

_RUNNER = ("torchship", "cpp_runner", "bin", "torchship-runner")
_VARIABLE = "TORCHSHIP_OPERATORS"
BUILD = (
    "`pip install torch==2.13.0 'scikit-build-core>=1.1' cmake ninja` and then "
    "`pip install --no-build-isolation -e .`"
)


def find(name: str) -> Path:
    """Return a library's file, from the installed package or a folder of TORCHSHIP_OPERATORS.

    Raises:
        LibraryMissingError: no folder has it.
    """
    given = [Path(entry) for entry in os.environ.get(_VARIABLE, "").split(os.pathsep) if entry]
    folders = [*_package_folders(), *given]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise LibraryMissingError(
        f"there is no '{name}' in {', '.join(map(str, folders)) or 'any folder'}: "
        f"build it with {BUILD}"
    )


def _package_folders() -> list[Path]:
    """Return the folder of the installed `torchship-runner`, and `lib` beside it."""
    try:
        installed = files("torchship") or []
    except PackageNotFoundError:
        return []
    for file in installed:
        if Path(file).parts[-len(_RUNNER) :] == _RUNNER:
            folder = Path(str(file.locate())).resolve().parent
            return [folder, folder.parent / "lib"]
    return []

"""Finds what the package has installed for C++: the binary, which it also runs, and the library."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

INSTALL = (
    "build it with `pip install torch==2.13.0 'scikit-build-core>=1.1' cmake ninja` and then "
    "`pip install --no-build-isolation -e .`"
)
_PACKAGE = Path("torchship", "cpp_runner")
_BINARY = _PACKAGE / "bin" / "torchship-runner"
_LIBTORCH = "libtorch_cpu.so"
_CMAKE = _PACKAGE / "lib" / "cmake" / "torchship" / "torchship-config.cmake"


def runner_path() -> Path:
    """Return the absolute path of the binary that belongs to the installed package.

    Raises:
        FileNotFoundError: the package, or its binary, is not installed.
    """
    path = _installed(_BINARY)
    if path is None or not os.access(path, os.X_OK):
        raise _missing("torchship-runner is")
    return path


def cmake_prefix() -> Path:
    """Return the folder for CMAKE_PREFIX_PATH: `include`, `lib` and the CMake package are in it.

    Raises:
        FileNotFoundError: the package, or its C++ library, is not installed.
    """
    path = _installed(_CMAKE)
    if path is None or not path.is_file():
        raise _missing("the C++ library and its CMake package are")
    return path.parents[len(_CMAKE.parts) - len(_PACKAGE.parts) - 1]


def environment(runner: Path) -> dict[str, str]:
    """Return the environment for the binary: this process's, and where LibTorch is if need be.

    The binary knows the torch in its own site-packages. A user's site-packages may have it on top
    of the system's torch, and a virtual environment may see both.
    """
    beside = runner.parents[3] / "torch" / "lib"
    torch = find_spec("torch")
    if (beside / _LIBTORCH).exists() or torch is None or not torch.submodule_search_locations:
        return dict(os.environ)
    folders = [str(Path(torch.submodule_search_locations[0], "lib"))]
    folders += [entry for entry in (os.environ.get("LD_LIBRARY_PATH"),) if entry]
    return os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(folders)}


def _installed(wanted: Path) -> Path | None:
    """Find a file of the installed package.

    The package's own list of files says where it is. PATH is not asked: the console script of the
    same name would find itself.
    """
    try:
        installed = files("torchship") or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if Path(file).parts[-len(wanted.parts) :] == wanted.parts:
            return Path(str(file.locate())).resolve()
    return None


def _missing(what: str) -> FileNotFoundError:
    return FileNotFoundError(f"{what} not installed; {INSTALL}")


def become(arguments: Sequence[str]) -> NoReturn:
    """Become the binary, with these arguments; end with a message where it cannot start."""
    try:
        path = runner_path()
        os.execve(path, [str(path), *arguments], environment(path))
    except OSError as error:
        sys.exit(f"torchship-runner: error: {error}")


if __name__ == "__main__":
    become(sys.argv[1:])

"""Finds and loads the libraries of custom operators that an archive names.

Loading a library runs its code. An archive therefore names libraries and never files: a name is
looked up in the folders that the user gave, our own library also in the installed package, and
nowhere else. C++ does the same in `cpp_runner/src/archive/operators.cpp`.
"""

from __future__ import annotations

import filecmp
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch

from torchship.script.errors import OperatorError
from torchship.script.format.manifest import CustomOperator
from torchship.script.runtime import torchscript
from torchship.script.runtime.trial_load import load_apart

VARIABLE = "TORCHSHIP_OPERATORS"
"""The environment variable with the user's folders, separated like PATH."""

LIBRARIES = {"torchship": "torchship_ops"}
"""Our own library, by the namespace of its operators."""

BUILT_WITH = "libtorch-version"
"""The file beside libraries with the minor version of torch that they were built with."""

RUNNER = ("torchship", "cpp_runner", "bin", "torchship-runner")

_loading = threading.Lock()


def allow(folders: Iterable[Path]) -> None:
    """Search these folders too, before those already in the environment.

    The change applies to this process and its children: the C++ runner, a server and its workers.
    """
    given = [str(folder.absolute()) for folder in folders]
    known = [entry for entry in (os.environ.get(VARIABLE, ""),) if entry]
    if given:
        os.environ[VARIABLE] = os.pathsep.join(given + known)


def folders(library: str) -> list[Path]:
    """Return the folders to search for a library: the user's, for our own also the package's."""
    given = [entry for entry in os.environ.get(VARIABLE, "").split(os.pathsep) if entry]
    own = _package_folders() if library in LIBRARIES.values() else []
    return own + [Path(entry).absolute() for entry in given]


def _package_folders() -> list[Path]:
    """Return the folders of our own library: the installed runner's, and `lib` beside it.

    The runner is found in the package's list of files, as in `torchship.cpp_runner.binary`.
    """
    try:
        installed = files("torchship") or []
    except PackageNotFoundError:
        return []
    for file in installed:
        if Path(file).parts[-len(RUNNER) :] == RUNNER:
            folder = Path(str(file.locate())).resolve().parent
            return [folder, folder.parent / "lib"]
    return []


def file_name(library: str) -> str:
    """Return the file name of a library: `lib<name>.so`."""
    return f"lib{library}.so"


def find(library: str) -> Path:
    """Return the first file with a library's name.

    Raises:
        OperatorError: no folder has it (the message names the folders), or it was built with
            another version of torch.
    """
    places = folders(library)
    for folder in places:
        path = folder / file_name(library)
        if path.is_file():
            _refuse_another_torch(path)
            return path
    what = f"there is no '{file_name(library)}'"
    where = f" in {', '.join(map(repr, map(str, places)))}" if places else ""
    raise OperatorError(
        f"{what}{where}; folders of operator libraries are given with --operators or {VARIABLE}",
        f"{what} in the folders of operator libraries",
    )


def load_library(library: str) -> Path:
    """Load a library by name, for modules that use its operators eagerly; return its file.

    Raises:
        OperatorError: no folder has it, it cannot be loaded, or another file of the same library
            is loaded already.
    """
    path = find(library)
    _refuse_another(path)
    try:
        torchscript.load_library(path)
    except OSError as error:
        raise _cannot_load(path, error) from None
    return path


def _cannot_load(path: Path, error: object) -> OperatorError:
    what = "cannot load"
    return OperatorError(f"{what} '{path}': {error}", f"{what} '{path.name}'")


def _refuse_another_torch(path: Path) -> None:
    """Refuse a library that was built with another minor version of torch.

    The C++ ABI changes between minor versions: such a library may load and compute nonsense.
    """
    record = path.with_name(BUILT_WITH)
    built = record.read_text().strip() if record.is_file() else ""
    if built and built.split(".")[:2] != torch.__version__.split(".")[:2]:
        what = f"was built with torch {built}, and this is torch {torch.__version__}"
        raise OperatorError(
            f"'{path}' {what}: run `pip install 'torch=={built}.*'`, or build it again",
            f"'{path.name}' {what}",
        )


def _refuse_another(path: Path) -> None:
    """Refuse a second file with the name or content of a library that is loaded.

    LibTorch ends the process if two files register the same operator, and what a file registers
    is not known before it is loaded.
    """
    for loaded in _loaded_files():
        with suppress(OSError):  # the file was deleted after it was loaded
            if loaded.samefile(path):
                return
    for loaded in _loaded_files():
        with suppress(OSError):
            same_name = loaded.name == path.name
            if same_name or filecmp.cmp(loaded, path, shallow=False):
                what = "is another file of the name" if same_name else "is a copy"
                end = "of a library that is loaded already"
                raise OperatorError(
                    f"'{path}' {what} {end}, '{loaded}': two files cannot register the same "
                    "operators in one process",
                    f"'{path.name}' {what} {end}",
                )


def _loaded_files() -> list[Path]:
    """Return the shared libraries of this process, on Linux."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return []
    columns = [line.split(maxsplit=5) for line in maps.splitlines()]
    return [Path(path) for path in sorted({c[5] for c in columns if len(c) == 6}) if ".so" in path]


def load(needed: Sequence[CustomOperator]) -> None:
    """Load the libraries of those operators that are not registered yet.

    Thread-safe. A library stays loaded until the process ends.

    Raises:
        OperatorError: no folder has a library, it cannot be loaded, or it does not register the
            operator; the message names the operator, the library and the folders.
    """
    with _loading:
        for operator in _unregistered(needed):
            if torchscript.has_operator(operator.name):  # an earlier library has registered it
                continue
            with _naming(operator):
                path = load_library(operator.library)
                if not torchscript.has_operator(operator.name):
                    raise _does_not_register(path)


def check_libraries(needed: Sequence[CustomOperator]) -> None:
    """Check that the libraries that `load` would load exist, without loading any.

    Raises:
        OperatorError: no folder has one of them; the message is that of `load`.
    """
    for operator in _unregistered(needed):
        with _naming(operator):
            find(operator.library)


def check_registrations(needed: Sequence[CustomOperator]) -> None:
    """Check in a new process that the libraries register the operators.

    Raises:
        OperatorError: as `load` in a process that has none of the operators yet.
    """
    files = []
    for operator in needed:
        with _naming(operator):
            path = find(operator.library)
        files.append((operator, path, path.stat().st_mtime_ns))
    if files:
        _check_registrations(tuple(files))


@lru_cache(maxsize=64)
def _check_registrations(files: tuple[tuple[CustomOperator, Path, int], ...]) -> None:
    """Start the process; cache a success as long as the files do not change."""
    failed = load_apart([(operator.name, path) for operator, path, _ in files])
    if failed:
        index, reason = failed
        operator, path, _ = files[index]
        with _naming(operator):
            raise _cannot_load(path, reason) if reason else _does_not_register(path)


def _does_not_register(path: Path) -> OperatorError:
    what = "does not register it"
    return OperatorError(f"'{path}' {what}", f"'{path.name}' {what}")


def _unregistered(needed: Sequence[CustomOperator]) -> list[CustomOperator]:
    return [operator for operator in needed if not torchscript.has_operator(operator.name)]


@contextmanager
def _naming(operator: CustomOperator) -> Iterator[None]:
    """Prefix errors with the operator that is needed, and its library."""
    try:
        yield
    except OperatorError as error:
        what = f"it needs the operator '{operator.name}' of the library '{operator.library}': "
        raise OperatorError(f"{what}{error}", f"{what}{error.public}") from None

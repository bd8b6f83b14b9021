"""Libraries of custom operators: where they may lie, and loading those that an archive names.

Loading a library runs its code. An archive therefore names libraries and never files: a name is
looked for in the folders that the user has given, our own library also where the package keeps it,
and nowhere else. C++ does the same in `cpp_runner/src/archive/operators.cpp`.
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
"""The environment variable of the user's folders, separated as those of PATH are."""

LIBRARIES = {"torchship": "torchship_ops"}
"""Namespace -> the library of its operators: our own."""

BUILT_WITH = "libtorch-version"
"""The file beside a library, or several, that holds the minor version of torch they need."""

RUNNER = ("torchship", "cpp_runner", "bin", "torchship-runner")

_loading = threading.Lock()


def allow(folders: Iterable[Path]) -> None:
    """Look in these folders, too, before those already in the environment.

    This process and those that it starts do so: the C++ runner, a server and its workers.
    """
    given = [str(folder.absolute()) for folder in folders]
    known = [entry for entry in (os.environ.get(VARIABLE, ""),) if entry]
    if given:
        os.environ[VARIABLE] = os.pathsep.join(given + known)


def folders(library: str) -> list[Path]:
    """Return the folders that a library is looked for in: the user's; for our own the package's."""
    given = [entry for entry in os.environ.get(VARIABLE, "").split(os.pathsep) if entry]
    own = _package_folders() if library in LIBRARIES.values() else []
    return own + [Path(entry).absolute() for entry in given]


def _package_folders() -> list[Path]:
    """Return where our own library is: `lib` beside the installed runner's folder, or built in it.

    The package's own list of files says where the runner is, as in `torchship.cpp_runner.binary`.
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
    """Return the first file of that library.

    Raises:
        OperatorError: no folder has it, and the message names the folders that were looked in; or
            it was built with another torch.
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
    """Load a library by name, and return its file. For modules that use its operators eagerly.

    Raises:
        OperatorError: it is in none of the folders, cannot be loaded, or is another file of a
            library that is loaded already.
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
    """Refuse a library beside which a file says that it was built with another minor of torch.

    The C++ ABI changes between minors: such a library may well load, and compute nonsense.
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
    """Refuse a file that has the name or the content of one that this process has loaded.

    LibTorch ends a process in which two files register the same operator. What other files
    register is not known before they are loaded.
    """
    for loaded in _loaded_files():
        with suppress(OSError):  # a file that has gone meanwhile
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
    """Return the shared libraries of this process, where Linux tells them."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return []
    columns = [line.split(maxsplit=5) for line in maps.splitlines()]
    return [Path(path) for path in sorted({c[5] for c in columns if len(c) == 6}) if ".so" in path]


def load(needed: Sequence[CustomOperator]) -> None:
    """Load the libraries of the operators that are not registered yet, and check that they are.

    Thread-safe. A library that was loaded stays so for as long as the process lives.

    Raises:
        OperatorError: a library is in none of the folders, cannot be loaded, or registers no such
            operator; the message names the operator, the library and where it was looked for.
    """
    with _loading:
        for operator in _unregistered(needed):
            if torchscript.has_operator(operator.name):  # by the library of one before
                continue
            with _naming(operator):
                path = load_library(operator.library)
                if not torchscript.has_operator(operator.name):
                    raise _does_not_register(path)


def check_libraries(needed: Sequence[CustomOperator]) -> None:
    """Check that the libraries which `load` would load are there, without loading any.

    Raises:
        OperatorError: one is in none of the folders; the message is that of `load`.
    """
    for operator in _unregistered(needed):
        with _naming(operator):
            find(operator.library)


def check_registrations(needed: Sequence[CustomOperator]) -> None:
    """Check that the libraries register the operators, in a process that has none of them yet.

    Raises:
        OperatorError: as `load` would, were it called in a new process.
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
    """Start the process. A success is remembered, for files that have not changed."""
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
    """Put in front of an error which operator is needed, and of which library."""
    try:
        yield
    except OperatorError as error:
        what = f"it needs the operator '{operator.name}' of the library '{operator.library}': "
        raise OperatorError(f"{what}{error}", f"{what}{error.public}") from None

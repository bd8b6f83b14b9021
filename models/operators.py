"""Loads our own library of operators, `torch.ops.torchship`, for models that run eagerly.

`script.runtime.operators` does the same for archives, by the names in their manifests. `models`
must not import `script`, so the two share only the place of the file in the package.
"""

import os
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch

from torchship.models.errors import OperatorsMissingError

_RUNNER = ("torchship", "cpp_runner", "bin", "torchship-runner")
_VARIABLE = "TORCHSHIP_OPERATORS"
_FILE = "libtorchship_ops.so"
_BUILT_WITH = "libtorch-version"  # the file beside the library with its version of torch


def load() -> None:
    """Register the operators of `torch.ops.torchship` if they are not registered yet.

    Raises:
        OperatorsMissingError: the package is not built, or its library cannot be loaded.
    """
    if hasattr(torch.ops.torchship, "lstm_pointwise"):
        return
    load_file(library())


def load_file(path: Path) -> None:
    """Load a library of operators, which runs its code.

    Raises:
        OperatorsMissingError: it cannot be loaded, or was built with another version of torch.
    """
    _refuse_another_torch(path)
    try:
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except OSError as error:
        raise OperatorsMissingError(f"cannot load '{path}': {error}") from None


def _refuse_another_torch(path: Path) -> None:
    """Refuse a library that was built with another minor version of torch.

    The C++ ABI changes between minor versions: such a library may load and compute nonsense.
    """
    record = path.with_name(_BUILT_WITH)
    built = record.read_text().strip() if record.is_file() else ""
    if built and built.split(".")[:2] != torch.__version__.split(".")[:2]:
        raise OperatorsMissingError(
            f"'{path}' was built with torch {built}, and this is torch {torch.__version__}: "
            f"run `pip install 'torch=={built}.*'`, or build torchship again"
        )


def library() -> Path:
    """Return the library's file, from the installed package or a folder of TORCHSHIP_OPERATORS.

    Raises:
        OperatorsMissingError: no folder has it.
    """
    given = [Path(entry) for entry in os.environ.get(_VARIABLE, "").split(os.pathsep) if entry]
    folders = [*_package_folders(), *given]
    for folder in folders:
        if (folder / _FILE).is_file():
            return folder / _FILE
    raise OperatorsMissingError(
        f"there is no '{_FILE}' in {', '.join(map(str, folders)) or 'any folder'}: build it with "
        "`pip install torch==2.13.0 'scikit-build-core>=1.1' cmake ninja` and then "
        "`pip install --no-build-isolation -e .`"
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

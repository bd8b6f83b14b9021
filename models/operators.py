"""Loads our own library of operators, `torch.ops.torchship`, for models that run eagerly.

`script.runtime.operators` does the same for archives, by the names in their manifests.
"""

from pathlib import Path

import torch

from torchship.models import libraries
from torchship.models.errors import LibraryMissingError, OperatorsMissingError

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
    try:
        return libraries.find(_FILE)
    except LibraryMissingError as error:
        raise OperatorsMissingError(str(error)) from None

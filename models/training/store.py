"""Stores trained weights as safetensors, with a JSON report of the training beside them."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from torchship.models.errors import NonFiniteError, OutputError, WeightsError

WEIGHTS = Path(__file__).parent.parent / "weights"
"""The weights in the package."""


class Report(BaseModel):
    """The JSON beside the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    recipe: dict[str, int | float | str]
    metrics: dict[str, float]
    command: str
    """The command that makes the same weights: the same bits on the same kind of machine."""

    torch: str
    machine: str
    """The instruction set of the kernels that made the weights, for example `x86_64 AVX512`."""

    sha256: str = ""
    """The digest of the safetensors file; filled in by `save`."""


def save(weights: Mapping[str, Tensor], report: Report, folder: Path) -> Path:
    """Write `<name>.safetensors` and `<name>.json` into `folder`; return the first one's path.

    Each file is written atomically. The JSON holds the digest of the weights, so `load` detects a
    pair of files from two trainings.

    Raises:
        NonFiniteError: a weight is infinite or NaN; nothing is written.
        OutputError: `folder` or a file in it cannot be written to.
    """
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(f"{report.name}: weight '{name}' is not finite; nothing was saved")
    data = safetensors.torch.save({name: t.detach().contiguous() for name, t in weights.items()})
    report = report.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
    prepare(folder)
    path = folder / f"{report.name}.safetensors"
    replace_file(path, data)
    replace_file(path.with_suffix(".json"), (report.model_dump_json(indent=2) + "\n").encode())
    return path


def prepare(folder: Path) -> None:
    """Create `folder` and test it, so that a long training does not fail at its end.

    Raises:
        OutputError: the folder, or a file in it, cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to the folder {folder}: {error.strerror}") from None


def load(name: str, folder: Path = WEIGHTS) -> dict[str, Tensor]:
    """Return the weights of the model `name`.

    Raises:
        WeightsError: a file is missing or damaged, or weights and JSON are not a pair.
    """
    path = folder / f"{name}.safetensors"
    expected = read_report(name, folder).sha256
    data = _read(path)
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise WeightsError(f"{path.name}: SHA-256 is {actual}, expected {expected}")
    try:
        weights = safetensors.torch.load(data)
    except SafetensorError as error:
        raise WeightsError(f"{path.name} is not safetensors: {error}") from None
    # Copies have the allocator's alignment, on which the rounding of some kernels depends.
    return {name: tensor.clone() for name, tensor in weights.items()}


def read_report(name: str, folder: Path = WEIGHTS) -> Report:
    """Return the JSON beside the weights of the model `name`.

    Raises:
        WeightsError: the file is missing or malformed.
    """
    path = folder / f"{name}.json"
    try:
        return Report.model_validate_json(_read(path))
    except ValidationError as error:
        raise WeightsError(f"{path.name} is not a report of a training: {error}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path.name} cannot be read: {error.strerror}") from None


def replace_file(path: Path, data: bytes) -> None:
    """Write a file atomically (`models` may not import `script.format.atomic_write`).

    Raises:
        OutputError: it cannot be written; an existing file is unchanged.
    """
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only the owner may read
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise OutputError(f"cannot write '{path}': {error.strerror}") from None
        raise

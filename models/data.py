"""Data sets from a folder or a download, checked against digests of the published files.

With TORCHSHIP_DATA set, files are read from that folder (`mnist/*.gz`, `names.txt`) and nothing is
downloaded; otherwise they are fetched once into the user's cache.
"""

import gzip
import hashlib
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pooch.core import retrieve
from pooch.utils import os_cache
from torch import Tensor

from torchship.models.errors import DataDamagedError, DataMissingError

MIRRORS = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "": ("https://raw.githubusercontent.com/karpathy/makemore/master/",),
}
"""Download addresses by folder below TORCHSHIP_DATA."""


@dataclass(frozen=True)
class Digits:
    """Images uint8[count, 784], raw pixels row by row, and labels int64[count], 0..9."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class DataFile:
    """A published file, and what its bytes must be."""

    folder: str
    """Below TORCHSHIP_DATA and in `MIRRORS`."""
    name: str
    header: int
    """Bytes before the data (IDX format, http://yann.lecun.com/exdb/mnist)."""
    packed: str
    """SHA-256 of the .gz on the mirrors; a local copy may be compressed differently."""
    content: str
    """SHA-256 of the content."""

    @property
    def place(self) -> str:
        """Where the file is below TORCHSHIP_DATA."""
        return f"{self.folder}/{self.name}" if self.folder else self.name


_IMAGES_HEADER, _LABELS_HEADER = 16, 8
FILES = {
    "train": (
        DataFile(
            "mnist",
            "train-images-idx3-ubyte.gz",
            _IMAGES_HEADER,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        DataFile(
            "mnist",
            "train-labels-idx1-ubyte.gz",
            _LABELS_HEADER,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
    ),
    "test": (
        DataFile(
            "mnist",
            "t10k-images-idx3-ubyte.gz",
            _IMAGES_HEADER,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        DataFile(
            "mnist",
            "t10k-labels-idx1-ubyte.gz",
            _LABELS_HEADER,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
}
_DIGEST_OF_NAMES = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
NAMES_FILE = DataFile("", "names.txt", 0, _DIGEST_OF_NAMES, _DIGEST_OF_NAMES)


def mnist(split: Literal["train", "test"]) -> Digits:
    """Return the 60,000 training or the 10,000 test digits of MNIST (LeCun et al., 1998).

    Raises:
        DataMissingError: a file is missing and cannot be downloaded.
        DataDamagedError: a file's content differs from the published one.
    """
    images, labels = (read_values(file) for file in FILES[split])
    return Digits(images.reshape(-1, 28 * 28), labels.long())


def names(file: DataFile = NAMES_FILE) -> list[str]:
    """Return the 32,033 names of makemore, lower case, in the file's order.

    Raises:
        DataMissingError: the file is missing and cannot be downloaded.
        DataDamagedError: its content differs from the published one.
    """
    return _checked(file, _read(file)).decode("ascii").split()


def read_values(file: DataFile) -> Tensor:
    """Return the values of a compressed file as uint8[count], without its header.

    Raises:
        DataMissingError: it is missing and cannot be downloaded.
        DataDamagedError: its content differs from the published one.
    """
    packed = _read(file)
    try:
        content = gzip.decompress(packed)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataDamagedError(f"{_path(file)} is not a whole gzip file: {error}") from None
    # A bytearray, because torch warns about read-only memory.
    writable = bytearray(_checked(file, content))
    return torch.frombuffer(writable, dtype=torch.uint8, offset=file.header)


def _checked(file: DataFile, content: bytes) -> bytes:
    actual = hashlib.sha256(content).hexdigest()
    if actual != file.content:
        raise DataDamagedError(
            f"{_path(file)}: SHA-256 of the content is {actual}, expected {file.content}"
        )
    return content


def _path(file: DataFile) -> Path:
    folder = os.environ.get("TORCHSHIP_DATA") or os_cache("torchship")
    return Path(folder) / file.folder / file.name


def _read(file: DataFile) -> bytes:
    path = _path(file) if os.environ.get("TORCHSHIP_DATA") else _download(file)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataMissingError(
            f"{path} is not there: TORCHSHIP_DATA must name a folder that holds {file.place}"
        ) from None
    except OSError as error:
        raise DataMissingError(f"{path} cannot be read: {error.strerror}") from None


def _download(file: DataFile) -> Path:
    path = _path(file)
    failures = []
    for mirror in MIRRORS[file.folder]:
        try:
            # It downloads to a temporary file, checks it, and only then renames it.
            digest = f"sha256:{file.packed}"
            return Path(retrieve(mirror + file.name, digest, file.name, path.parent))
        except (OSError, ValueError) as error:
            failures.append(f"{mirror}: {error}")
    raise DataMissingError(
        f"{file.name} is not in the cache and cannot be downloaded; set TORCHSHIP_DATA to a folder "
        f"that holds {file.place}\n  " + "\n  ".join(failures)
    )

"""What a store is to the rest: a listing, and files that are fetched, put and removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torchship.serve.errors import StoreError
from torchship.serve.stores.addresses import SIGNATURE

MODEL_FILE = "model.pt"
MOST_OBJECTS = 100_000
"""Objects below an address; more are a mistake in the address."""
LONGEST_NAME = 255 - len(".new")  # bytes of a file's name on a local disk

Progress = Callable[[int], None]
"""Called with a number of bytes that have just come or gone."""


@dataclass(frozen=True)
class RemoteFile:
    """An object in a store, as a listing describes it."""

    name: str
    """Relative to the address: `a.pt`, or `model/1/model.pt`."""
    location: str
    """What the store's library calls it."""
    size: int | None
    """In bytes; None if the store does not say."""
    tag: str
    """Changes with the content; "" if the store says nothing that would."""


class Store(Protocol):
    """One address of one kind of store; its calls block, each with a limit on the wait."""

    def listing(self) -> Mapping[str, RemoteFile]:
        """Return the archives and signatures at the address, by relative name.

        Raises:
            StoreError: the store does not answer, refuses, or has no such place: whatever a failed
                listing lacks may still be there.
        """

    def find(self, name: str) -> RemoteFile | None:
        """Return one file as it is now, or None if the store says that it does not exist.

        Raises:
            StoreError: the store does not answer, or refuses.
        """

    def fetch(self, file: RemoteFile, target: Path, most: int, progress: Progress) -> None:
        """Write an object's bytes to a new local file.

        Raises:
            StoreError: the store does not answer, refuses, has more than `most` bytes, or sends
                another number of bytes than it said.
            OSError: the local disk refuses.
        """

    def put(self, source: Path, name: str, progress: Progress) -> None:
        """Upload a local file's bytes; readers see all of the object or what was there before.

        Raises:
            StoreError: the store does not answer, or refuses.
        """

    def remove(self, name: str) -> None:
        """Remove an object.

        Raises:
            StoreError: the store does not answer, or refuses.
        """


def is_wanted(name: str) -> bool:
    """Return whether a relative name is that of an archive or signature that a server reads.

    Names in a listing are data: none may lead out of a folder, hide, or fail on a local disk.
    """
    parts = name.removesuffix(SIGNATURE).split("/")
    if not (len(parts) == 1 and parts[0].endswith(".pt")) and not (
        len(parts) == 3 and parts[2] == MODEL_FILE
    ):
        return False
    return all(_is_plain(part) for part in name.split("/"))


def refuse_name(name: str) -> None:
    """Refuse the name of an archive that a server would not read.

    Raises:
        StoreError: it is none.
    """
    if not is_wanted(name) or "/" in name or name.endswith(SIGNATURE):
        raise StoreError(
            f"{name!a} cannot be the name of an archive: expected NAME.pt without control "
            "characters and without a '.' at its begin"
        )


def _is_plain(part: str) -> bool:
    if not part or part.startswith(".") or "\\" in part or not part.isprintable():
        return False
    with suppress(UnicodeEncodeError):
        return len(part.encode()) <= LONGEST_NAME
    return False


def wanted_files(files: Iterable[RemoteFile]) -> dict[str, RemoteFile]:
    """Return the files that a server reads, by name.

    A store can have an object `a.pt` and objects below `a.pt/`; on a disk the file wins.
    """
    wanted = {file.name: file for file in files if is_wanted(file.name)}
    return {
        name: file
        for name, file in wanted.items()
        if "/" not in name or name.split("/", 1)[0] not in wanted
    }


def check_size(target: Path, file: RemoteFile, most: int) -> None:
    """Refuse a fetched file that does not have the size of the listing, or too many bytes.

    Raises:
        StoreError: it does.
    """
    size = target.stat().st_size
    if size > most:
        raise StoreError(f"it has {size} bytes: expected at most {most}")
    if file.size is not None and size != file.size:
        raise StoreError(f"{size} bytes came: expected {file.size}")

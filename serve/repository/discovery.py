"""Finds archives: named files, flat folders, and folders of models and versions."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torchship.script.errors import UsageError
from torchship.script.format.signing import signature_path

MODEL_FILE = "model.pt"

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class DiscoveredArchive:
    """A file: its path, the model that its folders name, and a stamp that detects changes.

    `key` is the name and version from the folders; None for a file outside such folders.
    """

    path: Path
    key: tuple[str, str] | None
    stamp: Stamp
    devices: tuple[int | None, ...] = field(default=(), compare=False)
    """The file systems of its folder, of the one above, and so on up to the given folder."""

    @property
    def there(self) -> bool:
        """Whether the file existed."""
        return self.stamp[0] is not None

    @property
    def size(self) -> int:
        """Its size in bytes; 0 if it did not exist."""
        return self.stamp[0][1] if self.stamp[0] else 0


@dataclass(frozen=True)
class FileState:
    """The result of scanning one of the given paths."""

    found: Sequence[DiscoveredArchive]
    gone: Collection[Path]
    """The known files that certainly no longer exist."""
    problems: Sequence[str]
    """The folders that could not be listed, and why."""


def find_archives(paths: Sequence[Path], empty: bool = False) -> list[Path]:
    """Return the archives: the given files, and those in the given folders.

    A folder holds `*.pt` files, or `<name>/<version>/model.pt`, or both.

    Raises:
        UsageError: a path does not exist, or there is no archive and `empty` is False.
    """
    for path in paths:
        if not path.exists():
            raise UsageError(f"'{path}' is not there: expected an archive or a folder of archives")
    found = [file.path for file in scan(paths)]
    if not found and not (empty and paths):
        places = ", ".join(f"'{path}'" for path in paths) or "nothing given"
        raise UsageError(
            f"no archives to serve: expected files, or folders of *.pt or of "
            f"<name>/<version>/{MODEL_FILE}, got {places}"
        )
    return found


def scan(paths: Sequence[Path]) -> list[DiscoveredArchive]:
    """Return the files of the given paths, each once; a named file even if it does not exist."""
    return unique([file for path in paths for file in look_at(path, path.is_dir()).found])


def unique(files: Sequence[DiscoveredArchive]) -> list[DiscoveredArchive]:
    """Return the files without duplicates by real path."""
    found: dict[str, DiscoveredArchive] = {}
    for file in files:
        found.setdefault(os.path.realpath(file.path), file)
    return list(found.values())


def look_at(root: Path, is_folder: bool, known: Sequence[DiscoveredArchive] = ()) -> FileState:
    """Scan a given path, and find out which known files below it were removed.

    A folder that cannot be listed is reported in `problems` and says nothing about its files.

    Args:
        root: the path.
        is_folder: whether it was a folder when the server started; it is then treated as one
            even if it is missing now.
        known: files from an earlier scan.
    """
    problems: list[str] = []
    top = root if is_folder else root.parent
    files = list(_files(root, problems)) if is_folder else [(root, None)]
    found = [DiscoveredArchive(file, key, _stamp(file), _devices(file, top)) for file, key in files]
    there = {file.path for file in found if is_folder or file.there}
    gone = {file.path for file in known if file.path not in there and _is_gone(file, top)}
    return FileState(found, gone, problems)


def _files(root: Path, problems: list[str]) -> Iterator[tuple[Path, tuple[str, str] | None]]:
    models = []
    for name, is_folder in _listed(root, problems):
        # Hidden folders belong to version control, and to tools that swap folders.
        is_model = is_folder and not name.startswith(".")
        files = [
            (file, (name, version))
            for version, _ in (_listed(root / name, problems) if is_model else ())
            if not version.startswith(".") and _may_be(file := root / name / version / MODEL_FILE)
        ]
        if name.endswith(".pt") and not files:
            yield root / name, None
        models += files
    yield from models


def _listed(folder: Path, problems: list[str]) -> list[tuple[str, bool]]:
    """Return the names in a folder, sorted, and whether each is a folder; [] on an error."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError as error:
        problems.append(f"cannot list '{folder}': {error.strerror}")
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link whose target cannot be read
        return False


def _may_be(file: Path) -> bool:
    """Return whether a file exists or cannot be checked; loading it reports the error."""
    try:
        os.lstat(file)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _is_gone(file: DiscoveredArchive, top: Path) -> bool:
    """Return whether a file certainly no longer exists.

    Only a successful listing is certain: of its folder, or of the first folder above it that
    still exists. A listing of a different file system than before is not: when a mount is away,
    an empty folder remains.
    """
    child = file.path
    for device in file.devices:
        folder = child.parent
        try:
            names = os.listdir(folder)
            return child.name not in names and os.stat(folder).st_dev == device
        except FileNotFoundError:
            child = folder
        except OSError:
            return False
    return False


def _devices(file: Path, top: Path) -> tuple[int | None, ...]:
    folders = [file.parent]
    while folders[-1] != top:
        folders.append(folders[-1].parent)
    return tuple(_device(folder) for folder in folders)


def _device(folder: Path) -> int | None:
    try:
        return os.stat(folder).st_dev
    except OSError:
        return None


def _stamp(file: Path) -> Stamp:
    """Return a stamp that changes with the file or its signature: time, size, inode of each."""
    return tuple(_stat(path) for path in (file, signature_path(file)))


def _stat(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def version_order(version: str) -> tuple[tuple[bool, int, str], ...]:
    """Return a sort key that puts version `10` after `9`, and `1.10` after `1.9`."""
    parts = (part for part in re.split(r"(\d+)|[._-]", version) if part)
    return tuple((p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts)


def printable(text: str) -> str:
    """Return text with unprintable characters escaped, which file names may contain."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

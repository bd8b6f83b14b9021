"""Which files a server was given: named ones, flat folders, and folders of models and versions."""

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
    """A file: where it is, what its folders say it holds, and how to see that it has changed.

    `key` is the name and version that the folders say; None for a file that is just a file.
    """

    path: Path
    key: tuple[str, str] | None
    stamp: Stamp
    devices: tuple[int | None, ...] = field(default=(), compare=False)
    """The file systems of its folder, of the one above, and so on up to the folder given."""

    @property
    def there(self) -> bool:
        """Whether the file was there."""
        return self.stamp[0] is not None

    @property
    def size(self) -> int:
        """Bytes; 0 when it was not there."""
        return self.stamp[0][1] if self.stamp[0] else 0


@dataclass(frozen=True)
class FileState:
    """What a look at one of the paths given has found."""

    found: Sequence[DiscoveredArchive]
    gone: Collection[Path]
    """Those of the files asked for that are certainly not there any more."""
    problems: Sequence[str]
    """Which folders could not be listed, and why."""


def find_archives(paths: Sequence[Path], empty: bool = False) -> list[Path]:
    """Return the archives: the files given, and those in the folders given.

    A folder has `*.pt` files, or `<name>/<version>/model.pt`, or both.

    Raises:
        UsageError: a path is not there, or there is no archive at all and `empty` is False.
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
    """Return the files of the paths given, each once; a named file also when it is not there."""
    return unique([file for path in paths for file in look_at(path, path.is_dir()).found])


def unique(files: Sequence[DiscoveredArchive]) -> list[DiscoveredArchive]:
    """Return files without those that an earlier path led to already."""
    found: dict[str, DiscoveredArchive] = {}
    for file in files:
        found.setdefault(os.path.realpath(file.path), file)
    return list(found.values())


def look_at(root: Path, is_folder: bool, known: Sequence[DiscoveredArchive] = ()) -> FileState:
    """Look at a path that was given, and which of the files known below it are gone.

    Nothing is raised when a folder cannot be listed: that says nothing about the files in it.

    Args:
        root: the path.
        is_folder: whether it was a folder when the server started; then it is one still, whatever
            is there now.
        known: files that an earlier look has found.
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
        # Hidden folders are those of version control, and of tools that swap folders.
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
    """Return what is in a folder, in order, and whether it is a folder; nothing if it cannot be."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError as error:
        problems.append(f"cannot list '{folder}': {error.strerror}")
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # of a link; that of its folder could be listed
        return False


def _may_be(file: Path) -> bool:
    """Whether a file is there, or cannot be told: loading it says why."""
    try:
        os.lstat(file)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _is_gone(file: DiscoveredArchive, top: Path) -> bool:
    """Whether a file is certainly not there any more.

    What is certain is what a listing says that succeeded: of its folder, or of the first folder
    above that is still there. It is not when the listing is of another file system than before: a
    mount that is away leaves an empty folder behind.
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
    """Return what changes when the file or its signature does: time, size, inode of each."""
    return tuple(_stat(path) for path in (file, signature_path(file)))


def _stat(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def version_order(version: str) -> tuple[tuple[bool, int, str], ...]:
    """Return a sort key by which version `10` comes after `9`, and `1.10` after `1.9`."""
    parts = (part for part in re.split(r"(\d+)|[._-]", version) if part)
    return tuple((p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts)


def printable(text: str) -> str:
    """Return text that fits on one line of any stream, as a file's name need not."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)

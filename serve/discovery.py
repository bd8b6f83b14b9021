"""Which files a server was given: named ones, flat folders, and folders of models and versions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchship.script.errors import UsageError
from torchship.script.signing import signature_path

MODEL_FILE = "model.pt"

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class Found:
    """A file: where it is, what its folders say it holds, and how to see that it has changed.

    `key` is the name and version that the folders say; None for a file that is just a file.
    """

    path: Path
    key: tuple[str, str] | None
    stamp: Stamp

    @property
    def there(self) -> bool:
        """Whether the file was there."""
        return self.stamp[0] is not None


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


def scan(paths: Sequence[Path]) -> list[Found]:
    """Return the files of the paths given, each once; a named file also when it is not there."""
    found: dict[Path, Found] = {}
    for path in paths:
        for file, key in _files(path):
            found.setdefault(file.resolve(), Found(file, key, _stamp(file)))
    return list(found.values())


def _files(path: Path) -> Iterator[tuple[Path, tuple[str, str] | None]]:
    if not path.is_dir():
        yield path, None
        return
    for file in sorted(path.glob("*.pt")):
        yield file, None
    for file in sorted(path.glob(f"*/*/{MODEL_FILE}")):
        version, name = file.parent.name, file.parent.parent.name
        # Hidden folders are those of version control, and of tools that swap folders.
        if not name.startswith(".") and not version.startswith("."):
            yield file, (name, version)


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

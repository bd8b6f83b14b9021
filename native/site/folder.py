"""The folder of a site: written beside the old one, which is replaced when the new one is whole."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torchship.script.errors import UsageError

FACTS = "site.json"
PARTS = ("ui", "models", "index.html", FACTS)
"""What a site consists of, in the order in which a new one takes the place of an old one."""


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """Have an empty folder; what the block wrote there becomes the site in `target`.

    If the block raises, `target` is as it was. Files of a site that are not ours stay, such as a
    `CNAME` of its host.

    Raises:
        UsageError: `target` is a file, or holds other things than a site of ours, or cannot be
            written to.
    """
    _check(target)
    made = not target.exists()
    try:
        target.mkdir(parents=True, exist_ok=True)
        # Inside of it, so that moving is renaming, also where the folder is a volume of its own.
        scratch = Path(tempfile.mkdtemp(prefix=".site-", dir=target))
    except OSError as error:
        raise UsageError(f"cannot write the site '{target}': {error.strerror}") from None
    try:
        new = scratch / "new"
        new.mkdir()
        yield new
        _swap(target, new, scratch)
    except OSError as error:
        raise UsageError(f"cannot write the site '{target}': {error}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):
                target.rmdir()  # only if nothing came


def _check(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"'{target}' is a file: expected a folder for the site, new or empty")
    found = sorted(path.name for path in target.iterdir() if not path.name.startswith("."))
    if found and not _is_site(target):
        raise UsageError(
            f"'{target}' holds other things, such as '{found[0]}': expected a folder that is new, "
            "empty, or a site that this command wrote"
        )


def _is_site(folder: Path) -> bool:
    try:
        facts = json.loads((folder / FACTS).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(facts, dict) and facts.get("form") == "site"


def _swap(target: Path, new: Path, scratch: Path) -> None:
    """Move each part of the new site in, and of the old site out; go back if that fails."""
    old = scratch / "old"
    old.mkdir()
    moved: list[tuple[Path, Path]] = []
    try:
        for part in PARTS:
            for source, place in ((target, old), (new, target)):
                if (source / part).exists():
                    os.replace(source / part, place / part)
                    moved.append((source / part, place / part))
    except OSError:
        for before, after in reversed(moved):
            os.replace(after, before)
        raise

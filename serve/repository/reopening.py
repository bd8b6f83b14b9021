"""The file of a live archive, read again: its bytes are not kept once it is loaded."""

from __future__ import annotations

from pathlib import Path

from torchship.script.errors import ArchiveError
from torchship.script.format.golden import to_safetensors
from torchship.script.runtime.archive import Archive, check_content, read_content
from torchship.serve.engine.engine import Engine
from torchship.serve.errors import ArchiveChangedError


def reopen(name: str, path: Path, digest: str) -> Archive:
    """Read an archive again; it blocks for as long as the disk does.

    Args:
        name: the model, for messages.
        path: the file that it was loaded from.
        digest: the SHA-256 of what is live.

    Raises:
        ArchiveChangedError: the file is gone, or holds something else by now.
    """
    try:
        content = read_content(path)
        if content.digest == digest:
            return check_content(path, content)
    except ArchiveError:
        pass  # the reason may name folders, which are no client's business
    raise ArchiveChangedError(
        f"model '{name}': '{path.name}' is not the file any more that is live: load the model "
        "again, or put the file back"
    )


def golden_record(engine: Engine) -> bytes:
    """Return all golden cases of a live archive as safetensors; it may read the archive again.

    Raises:
        ArchiveChangedError: as `reopen`, if the cases were too large to be kept.
    """
    manifest = engine.manifest
    cases = engine.golden
    if len(cases) != len(manifest.golden):
        cases = reopen(manifest.name, engine.path, engine.digest).golden
    return to_safetensors(cases)

"""Libraries that `torchship compile --target lib` made: found in a folder, checked, loaded."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.native.errors import NativeError
from torchship.native.running.library import Library
from torchship.script.errors import ArchiveError
from torchship.script.format.signing import check_signature
from torchship.script.runtime.archive import Archive


def load_prebuilt(folder: Path, archive: Archive, keys: Sequence[Ed25519PublicKey]) -> Library:
    """Load the library `NAME*.so` in a folder that was compiled from an archive.

    Which one it is, is seen in its bytes: no code of another library runs. If there are keys, one
    of them must have signed the library, in `<file>.sig`.

    Raises:
        NativeError: there is none, or those of this name belong to other archives, are not signed,
            or cannot be loaded.
    """
    manifest = archive.require_manifest()
    name, digest = _plain(manifest.name), archive.digest.encode()
    others = []
    try:
        for file in sorted(folder.glob("*.so")):
            if not re.match(f"m?{name}", _plain(file.stem)):
                continue
            data = file.read_bytes()
            if digest in data:
                if keys:
                    _check_signature(file, data, keys)
                return _load(file.name, data, archive)
            others.append(f"'{file.name}'")
    except OSError as error:
        raise NativeError(f"cannot read '{error.filename}': {error.strerror}") from None
    if others:
        raise NativeError(
            f"{', '.join(others)} in '{folder}' was compiled from another archive: expected the "
            f"digest {archive.digest[:16]}…; compile it again"
        )
    raise NativeError(f"'{folder}' has no library '{manifest.name}*.so'")


def _plain(name: str) -> str:
    """Return a name as the compiler makes identifiers of it."""
    return re.sub(r"\W+", "_", name).lower()


def _check_signature(file: Path, data: bytes, keys: Sequence[Ed25519PublicKey]) -> None:
    try:
        check_signature(file, data, keys)
    except ArchiveError as error:
        raise NativeError(str(error)) from None


def _load(name: str, data: bytes, archive: Archive) -> Library:
    """Load the bytes that were checked.

    A copy of its own also makes sure that the system does not take the file for one of the same
    path that it has mapped before.
    """
    with tempfile.TemporaryDirectory(prefix="torchship-") as place:
        copy = Path(place) / name
        copy.write_bytes(data)
        return Library(copy, archive.require_manifest(), archive.digest)

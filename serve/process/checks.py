"""Checks at start: settings that contradict each other or do not fit the archives."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.script.errors import ArchiveError, UsageError
from torchship.script.format.manifest import Manifest
from torchship.script.runtime.archive import open_archive
from torchship.serve.repository.discovery import find_archives
from torchship.serve.sequences.store_choice import IN_PROCESS, needs_single_worker
from torchship.serve.settings import Settings

log = logging.getLogger(__name__)


Keys = Sequence[Ed25519PublicKey]


def _manifests(settings: Settings, keys: Keys) -> Iterator[Manifest | None]:
    """Yield the manifest of each archive; None for one that loading will refuse."""
    for file in find_archives(settings.local_paths, empty=settings.mode != "fixed"):
        try:
            yield open_archive(file, keys).require_manifest()
        except ArchiveError:
            yield None


def check_places(settings: Settings, keys: Keys = ()) -> None:
    """Refuse a device for a model without an archive; warn if an archive may still be added.

    Raises:
        UsageError: there is no such archive, in fixed mode and if every archive can be read.
    """
    placed = {text.partition("=")[0]: text for text in settings.place}
    if not placed:
        return
    found = list(_manifests(settings, keys))
    names = {manifest.name for manifest in found if manifest is not None}
    for name in placed.keys() - names:
        having = ", ".join(f"'{known}'" for known in sorted(names)) or "none"
        message = f"--place {placed[name]}: there is no model '{name}': the archives have {having}"
        if settings.mode == "fixed" and None not in found:
            raise UsageError(message)
        log.warning("%s", message)


def check_workers(settings: Settings, keys: Keys = ()) -> None:
    """Refuse in-process sequence state with several workers.

    Raises:
        UsageError: sequences would exist in one worker's memory only.
    """
    if settings.state != IN_PROCESS:
        return
    for manifest in _manifests(settings, keys):
        if manifest is not None and needs_single_worker(manifest):
            raise UsageError(
                f"model '{manifest.name}' has recurrent state, and each of {settings.workers} "
                "workers would remember its own sequences only: give --state redis://host:port/db, "
                "--state none if clients carry the state, or one worker"
            )

"""Loads archives as compiled code where that is possible, and by LibTorch otherwise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from torchship.native.errors import UnsupportedError
from torchship.native.running.compiled import compile_library
from torchship.native.running.library import Library
from torchship.native.running.prebuilt import load_prebuilt
from torchship.native.running.program import NativeProgram
from torchship.script.errors import ArchiveError, TorchShipError, UsageError
from torchship.script.runtime.archive import Archive
from torchship.serve.engine.runnable import Runnable

log = logging.getLogger(__name__)

OFF, AUTO = "off", "auto"


class NativeCode:
    """Makes the programs of archives, as the setting `native` says; in the engines' threads."""

    def __init__(self, where: str, keys: Callable[[], Sequence[Ed25519PublicKey]]) -> None:
        """Take `auto` or a folder of libraries, and what gives the keys that must have signed them.

        Raises:
            UsageError: there is no such folder.
        """
        if where != AUTO and not Path(where).is_dir():
            raise UsageError(
                f"setting 'native': expected off, auto or a folder of libraries, got '{where}'"
            )
        self._where = where
        self._keys = keys

    def program(self, archive: Archive, device: str) -> Runnable:
        """Load an archive to a device; why not as compiled code, is a line of the log.

        Raises:
            ArchiveError: as `Archive.program`.
        """
        try:
            return NativeProgram(self._library(archive, device))
        except ArchiveError:
            raise  # LibTorch would refuse it too
        except Exception as error:  # whatever the compiler cannot do, LibTorch can
            text = " ".join(str(error).split())
            why = text if isinstance(error, TorchShipError) else f"{type(error).__name__}: {text}"
            log.warning(
                "model '%s' is served by LibTorch: %s", archive.require_manifest().name, why
            )
            return archive.program(device)

    def _library(self, archive: Archive, device: str) -> Library:
        if device != "cpu":
            raise UnsupportedError(
                f"compiled code runs on the processor, and the model on {device}"
            )
        if self._where == AUTO:
            return compile_library(archive)
        return load_prebuilt(Path(self._where), archive, self._keys())

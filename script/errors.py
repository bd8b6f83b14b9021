"""The errors a user can cause: one class per kind, each with a stable code.

`code` is for programs, `exit_code` for shells; HTTP status codes are mapped in `torchship.serve`.
"""

from __future__ import annotations


class TorchShipError(Exception):
    """Base of every error a user can cause; messages say what was expected and what was given."""

    code = "error"
    exit_code = 2


class UsageError(TorchShipError):
    """A command or call that names something that does not exist, or whose parts do not fit."""

    code = "usage"
    exit_code = 2


class ExportError(TorchShipError):
    """A module that cannot become an archive; the message says what to change."""

    code = "export"
    exit_code = 2


class ArchiveError(TorchShipError):
    """A file that is damaged, tampered with, too new, or not an archive."""

    code = "bad_archive"
    exit_code = 3


class UnreadableError(ArchiveError):
    """A file that the system refuses to read now; reading the same file may succeed later."""


class OperatorError(ArchiveError):
    """A custom operator of an archive is missing; `public` is the message without folders."""

    code = "missing_operator"
    exit_code = 3

    def __init__(self, message: str, public: str = "") -> None:
        super().__init__(message)
        self.public = public or message


class InputError(TorchShipError):
    """Inputs that do not fit the archive's signature."""

    code = "bad_input"
    exit_code = 4


class ModelError(TorchShipError):
    """The model itself raised while it ran, for example on a value that it forbids."""

    code = "model_raised"
    exit_code = 4


class OutOfMemoryError(TorchShipError):
    """Not enough memory; input and archive are fine, and a retry may succeed."""

    code = "out_of_memory"
    exit_code = 5

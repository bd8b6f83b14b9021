"""The errors a user can cause: one class per kind, each with a stable code.

`code` is for programs, `exit_code` for shells; HTTP status codes are mapped in `torchship.serve`.
"""

from __future__ import annotations


class TorchShipError(Exception):
    """Base of every error a user can cause; messages say what came and what was expected."""

    code = "error"
    exit_code = 2


class UsageError(TorchShipError):
    """A command or call that names something that is not there or does not fit together."""

    code = "usage"
    exit_code = 2


class ExportError(TorchShipError):
    """A module that cannot become an archive; the message says what to change."""

    code = "export"
    exit_code = 2


class ArchiveError(TorchShipError):
    """A file that is damaged, tampered with, too new, or no archive at all."""

    code = "bad_archive"
    exit_code = 3


class UnreadableError(ArchiveError):
    """A file that the system does not let us read now: it may let us later, and has not changed."""


class OperatorError(ArchiveError):
    """An archive's custom operator that is not there; `public` says so without naming folders."""

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
    """No memory for what was asked: nothing is wrong with input or archive, and it may pass."""

    code = "out_of_memory"
    exit_code = 5

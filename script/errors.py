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


class InputError(TorchShipError):
    """Inputs that do not fit the archive's signature."""

    code = "bad_input"
    exit_code = 4


class ModelError(TorchShipError):
    """The model itself raised while it ran, for example on a value that it forbids."""

    code = "model_raised"
    exit_code = 4

"""Eager module to archive: the archive format, signatures, golden cases and agreement."""

from torchship.script.archive import Archive, open_archive
from torchship.script.errors import (
    ArchiveError,
    ExportError,
    InputError,
    ModelError,
    TorchShipError,
    UsageError,
)
from torchship.script.export import Options, export
from torchship.script.program import Program
from torchship.script.target import Target, find_target

__all__ = [
    "Archive",
    "ArchiveError",
    "ExportError",
    "InputError",
    "ModelError",
    "Options",
    "Program",
    "Target",
    "TorchShipError",
    "UsageError",
    "export",
    "find_target",
    "open_archive",
]

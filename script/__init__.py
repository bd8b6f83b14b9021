"""Eager module to archive: the archive format, signatures, golden cases and agreement.

The names below are imported when they are first used, because most of them need torch, which costs
a process 200 MB and a second: the server's supervisor, for example, needs only the errors.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchship.script.errors import (
        ArchiveError,
        ExportError,
        InputError,
        ModelError,
        TorchShipError,
        UsageError,
    )
    from torchship.script.exporting.export import Options, export
    from torchship.script.exporting.target import Target, find_target
    from torchship.script.runtime.archive import Archive, open_archive
    from torchship.script.runtime.program import Program

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

_MODULES = {
    "errors": (
        *("ArchiveError", "ExportError", "InputError", "ModelError", "TorchShipError"),
        "UsageError",
    ),
    "exporting.export": ("Options", "export"),
    "exporting.target": ("Target", "find_target"),
    "runtime.archive": ("Archive", "open_archive"),
    "runtime.program": ("Program",),
}


def __getattr__(name: str) -> object:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"torchship.script.{module}"), name)
    raise AttributeError(f"module 'torchship.script' has no attribute '{name}'")

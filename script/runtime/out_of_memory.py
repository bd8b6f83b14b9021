"""Telling a lack of memory from faults: it is of the machine and the moment, and passes."""

from __future__ import annotations

import re

import torch

from torchship.script.errors import OutOfMemoryError

SAID = re.compile(r"(alloc\w*|enough|out of) memory|bad_alloc")
ASKED = re.compile(r"tried to allocate (\d+) bytes")


def ran_out(error: BaseException) -> bool:
    """Whether an exception says that there was no memory.

    Torch has no type for it on the CPU: it is a plain RuntimeError, whose words are looked at. What
    a model in TorchScript raises itself is of another type.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    ours = type(error) is RuntimeError
    return ours and SAID.search(str(error)) is not None


def amount(error: BaseException) -> str:
    """Return `: it asked for 8000 bytes`, or nothing where the exception does not say."""
    asked = ASKED.search(str(error))
    return f": it asked for {asked.group(1)} bytes" if asked else ""


def explained(error: Exception) -> Exception:
    """Return an OutOfMemoryError for an exception that says so; any other as it is."""
    if not ran_out(error):
        return error
    return OutOfMemoryError(f"there is no memory for this{amount(error)}")

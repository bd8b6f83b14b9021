"""Recognises out-of-memory errors, which are temporary and no fault of model or input."""

from __future__ import annotations

import re

import torch

from torchship.script.errors import OutOfMemoryError

MESSAGE = re.compile(r"(alloc\w*|enough|out of) memory|bad_alloc")
AMOUNT = re.compile(r"tried to allocate (\d+) bytes")


def ran_out(error: BaseException) -> bool:
    """Return whether an exception reports a lack of memory.

    On the CPU torch raises a plain RuntimeError, so the message decides. Errors that a TorchScript
    model raises itself have another type.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    ours = type(error) is RuntimeError
    return ours and MESSAGE.search(str(error)) is not None


def amount(error: BaseException) -> str:
    """Return `: it asked for 8000 bytes`, or "" if the exception does not say how many."""
    asked = AMOUNT.search(str(error))
    return f": it asked for {asked.group(1)} bytes" if asked else ""


def explained(error: Exception) -> Exception:
    """Return an OutOfMemoryError for an exception that reports one; any other unchanged."""
    if not ran_out(error):
        return error
    return OutOfMemoryError(f"there is no memory for this{amount(error)}")

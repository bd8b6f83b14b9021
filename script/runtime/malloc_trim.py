"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # not glibc
        return None
    return trim


_TRIM = _malloc_trim()


def trim_malloc() -> None:
    """Return free pages to the system, where the C library can: glibc keeps them otherwise.

    It may take milliseconds, without Python's lock: call it on a thread of its own.
    """
    if _TRIM is not None:
        _TRIM(0)

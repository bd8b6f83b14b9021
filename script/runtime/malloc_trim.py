"""Returns freed memory from the C library to the system."""

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
    """Return free pages to the system if the C library is glibc, which otherwise keeps them.

    It may take milliseconds and releases the GIL: call it on a separate thread.
    """
    if _TRIM is not None:
        _TRIM(0)

"""How much freed memory glibc's malloc keeps for the next call of a model."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
MMAP_THRESHOLD = 32 << 20  # bytes; the most that every glibc accepts
TRIM_THRESHOLD = 32 << 20  # bytes, of each heap
"""With 64 MiB, a worker kept 13 to 87 MB more after requests of 10 MB; with these, 2 to 47."""
NAMES = ("mmap_threshold", "trim_threshold", "top_pad", "mmap_max")
"""The values that turn off glibc's own rule for both thresholds when somebody sets them."""


def set_by_user(environment: Mapping[str, str]) -> bool:
    """Return whether the environment tells glibc when to map and to trim."""
    tunables = environment.get("GLIBC_TUNABLES", "")
    return any(
        f"MALLOC_{name.upper()}_" in environment or f"glibc.malloc.{name}=" in tunables
        for name in NAMES
    )


def raise_malloc_thresholds(environment: Mapping[str, str]) -> None:
    """Let each of glibc's heaps keep up to 32 MiB that one call frees, for the next one.

    Blocks below 32 MiB then come from a heap. By its own rule, glibc sets both thresholds by the
    largest block that was freed so far. If a call has several temporaries at once, they go beyond
    what is kept, and are unmapped and mapped again, page by page, in each call.

    Nothing is done if the user has chosen (`set_by_user`), or if the C library is another one. Only
    for processes that are ours: malloc belongs to the whole process.
    """
    if set_by_user(environment):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)

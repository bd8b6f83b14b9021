"""How much freed memory glibc's malloc keeps for the next call of a model."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
MMAP_THRESHOLD = 32 << 20  # bytes; the most that every glibc accepts
TRIM_THRESHOLD = 2 * MMAP_THRESHOLD
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
    """Let glibc's malloc keep up to 64 MiB that one call frees, for the next one.

    Blocks below 32 MiB then come from its heaps. These are the values that glibc's own rule ends at
    once a block of 32 MiB has been freed. Below them, the temporaries of each call are unmapped and
    mapped again, page by page. Nothing is done if the user has chosen (`set_by_user`), or if the C
    library is another one. Only for processes that are ours: malloc belongs to the whole process.
    """
    if set_by_user(environment):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
    mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)

"""Memory that processes share through an unnamed file, so that nothing stays on a disk."""

from __future__ import annotations

import os
import tempfile


def shared_file(size: int) -> int:
    """Return the descriptor of an unnamed file of `size` zero bytes, in memory where possible.

    The bytes are allocated now: a page that cannot be allocated later would kill the process that
    touches it (SIGBUS).

    Raises:
        OSError: there is not enough memory or disk.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("torchship")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
    return descriptor

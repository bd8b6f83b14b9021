"""Memory that processes share by an open file: no disk can be too full for it, and none is left."""

from __future__ import annotations

import os
import tempfile


def shared_file(size: int) -> int:
    """Return the descriptor of an unnamed file of so many zero bytes, in memory where possible.

    The bytes are reserved: a page that cannot be had later would kill whoever touches it.

    Raises:
        OSError: there is no room.
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

"""What one client at a time may do, on a server of several processes."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from torchship.serve.errors import BusyError
from torchship.serve.service.rate_limit import TABLE_BYTES


class Turn:
    """A turn that one task has at a time, of all processes that share an open file."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Take the file of a `RateTable`, behind whose rates the turn is; or be this process's own.

        A process that dies gives its turn back: the system lets its lock go.
        """
        self._descriptor = descriptor
        self._taken = False  # a lock keeps out other processes, not other tasks of this one

    @contextmanager
    def taken(self, what: str) -> Iterator[None]:
        """Have the turn for the length of the block.

        Raises:
            BusyError: somebody else has it; the message names `what` it is for.
        """
        busy = BusyError(
            f"{what} runs already, and one runs at a time: ask again when it has ended"
        )
        if self._taken:
            raise busy
        self._taken = True
        try:
            if self._descriptor is not None:
                try:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, TABLE_BYTES)
                except OSError:
                    raise busy from None
            try:
                yield
            finally:
                if self._descriptor is not None:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, TABLE_BYTES)
        finally:
            self._taken = False

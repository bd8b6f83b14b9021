"""Standard output and error that never block the process.

A pipe that nobody reads blocks its writer; a closed pipe and a full disk raise. None of these may
stop a server from answering, so a separate thread writes, and text that it cannot write in time is
dropped and counted.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading
import time
from collections import deque

MOST_BYTES = 1 << 20  # waiting to be written
DRAIN_SECONDS = 1.0


class NonBlockingStream(io.TextIOBase):
    """A text stream over a file descriptor, for `print`, `logging` and tracebacks."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int, most: int = MOST_BYTES) -> None:
        """Write to a descriptor; at most `most` bytes wait in memory."""
        super().__init__()
        self._descriptor = descriptor
        self._most = most
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._changed = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether the descriptor is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Queue a text for writing, or count it as lost; never block, never raise."""
        data = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._size + len(data) > self._most:
                self._lost += 1
                return len(text)
            self._waiting.append(data)
            self._size += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="output", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return len(text)

    def drain(self, seconds: float = DRAIN_SECONDS) -> bool:
        """Wait up to `seconds` until everything is written; return whether it is."""
        end = time.monotonic() + seconds
        with self._changed:
            while self._size:
                left = end - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    return not self._size
        return True

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                data = b"".join(self._waiting)
                self._waiting.clear()
                lost, self._lost = self._lost, 0
            if lost:
                data += b"(%d more texts were lost: nobody read this stream in time)\n" % lost
            self._write(data)
            with self._changed:
                self._size = sum(map(len, self._waiting))
                self._changed.notify_all()

    def _write(self, data: bytes) -> None:
        """Write the data; if the pipe is closed or the disk full, it is lost."""
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return


_STREAMS: list[NonBlockingStream] = []


def take_over(stdout: int) -> None:
    """Replace `sys.stderr` and `sys.stdout` (to descriptor `stdout`) by streams that never block.

    At exit the process waits briefly for the text that is still queued.
    """
    errors = NonBlockingStream(2)
    output = errors if stdout == 2 else NonBlockingStream(stdout)
    sys.stdout, sys.stderr = output, errors
    _STREAMS[:] = [output, errors]
    atexit.unregister(drain_all)
    atexit.register(drain_all)


def drain_all() -> None:
    """Wait briefly until both streams have written what is queued."""
    for stream in _STREAMS:
        stream.drain()

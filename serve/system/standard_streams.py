"""What a process writes to standard output and error, without ever waiting for who reads it.

A pipe that nobody reads blocks its writer, one whose reader has gone raises, a full disk does
too. None of that may stop a server from answering, so a thread of its own does the writing, and
what it cannot write in time is dropped and counted.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
import threading
import time
from collections import deque

MOST_BYTES = 1 << 20  # that wait to be written
DRAIN_SECONDS = 1.0


class NonBlockingStream(io.TextIOBase):
    """A text stream to a descriptor, for `print`, `logging` and tracebacks of this process."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int, most: int = MOST_BYTES) -> None:
        """Write to that descriptor from now on; at most so many bytes wait."""
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
        """Whether a terminal reads it."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Have a text written, or count it as lost; never block, never raise."""
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
        """Wait at most so long for all to be written; return whether it was."""
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
        """Write what can be written: without a reader, or on a full disk, it is lost."""
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return


_STREAMS: list[NonBlockingStream] = []


def take_over(stdout: int) -> None:
    """Have this process's `sys.stderr`, and its `sys.stdout` to that descriptor, never wait.

    What they still hold at the process's end is written then, if somebody reads it.
    """
    errors = NonBlockingStream(2)
    output = errors if stdout == 2 else NonBlockingStream(stdout)
    sys.stdout, sys.stderr = output, errors
    _STREAMS[:] = [output, errors]
    atexit.unregister(drain_all)
    atexit.register(drain_all)


def drain_all() -> None:
    """Wait a moment for all that was said to be written."""
    for stream in _STREAMS:
        stream.drain()

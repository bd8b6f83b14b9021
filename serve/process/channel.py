"""A private channel between two processes: length-prefixed messages over a socket pair.

It is separate from standard output, to which a model may print. A message is a length and that many
bytes; `messages` defines and validates their content.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable

log = logging.getLogger(__name__)

LENGTH = struct.Struct("<I")
LARGEST = 64 << 20  # bytes of a message
CHUNK = 1 << 16


class Channel:
    """One end of the channel; all methods but `receive` are for one event loop."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._received = bytearray()
        self._unsent = bytearray()
        self._on_message: Callable[[bytes], None] = lambda message: None
        self._on_closed: Callable[[], None] = lambda: None

    def receive(self) -> bytes | None:
        """Block until the next message, before `listen`; None if the other end is closed."""
        self._end.setblocking(True)
        while (message := self._next()) is None:
            data = self._end.recv(CHUNK)
            if not data:
                return None
            self._received += data
        return message

    def listen(self, on_message: Callable[[bytes], None], on_closed: Callable[[], None]) -> None:
        """Call back for each message, and when the other end closes, on the running event loop.

        An exception in `on_message` is logged, so that later messages are still delivered.
        """
        self._loop = asyncio.get_running_loop()
        self._on_message, self._on_closed = on_message, on_closed
        self._end.setblocking(False)
        self._loop.add_reader(self._end.fileno(), self._read)
        self._loop.call_soon(self._deliver)  # messages that arrived together with an earlier one

    def send(self, message: bytes) -> None:
        """Send a message; what the socket does not accept now is sent later.

        As much as possible is sent before this returns, because the caller may be about to hang.
        """
        if self._end.fileno() < 0:
            return
        waiting = bool(self._unsent)
        self._unsent += LENGTH.pack(len(message)) + message
        if not waiting:
            self._write()

    def close(self) -> None:
        """Close this end."""
        if self._end.fileno() < 0:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._end.fileno())
            self._loop.remove_writer(self._end.fileno())
        self._end.close()

    def _write(self) -> None:
        try:
            self._end.setblocking(False)
            while self._unsent:
                sent = self._end.send(self._unsent)
                del self._unsent[:sent]
        except BlockingIOError:
            if self._loop is not None:
                self._loop.add_writer(self._end.fileno(), self._write)
            return
        except OSError:  # the other process has ended; `_read` reports that
            self._unsent.clear()
        if self._loop is not None:
            self._loop.remove_writer(self._end.fileno())

    def _read(self) -> None:
        try:
            data = self._end.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            self._on_closed()
            return
        self._received += data
        self._deliver()

    def _deliver(self) -> None:
        try:
            while (message := self._next()) is not None:
                try:
                    self._on_message(message)
                except Exception:
                    log.exception("a message of another process")
        except ValueError:
            log.exception("what came over a channel")
            self.close()
            self._on_closed()

    def _next(self) -> bytes | None:
        """Return the next complete message, or None.

        Raises:
            ValueError: a message is larger than allowed.
        """
        if len(self._received) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._received)
        if length > LARGEST:
            raise ValueError(f"a message of {length} bytes: expected at most {LARGEST}")
        if len(self._received) < LENGTH.size + length:
            return None
        message = bytes(self._received[LENGTH.size : LENGTH.size + length])
        del self._received[: LENGTH.size + length]
        return message

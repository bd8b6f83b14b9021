"""A private channel between two processes: whole messages over one end of a pair of sockets.

Nothing else is written to it, so whatever a model prints stays out of it. A message is its length
and its bytes; what they mean, and whether they are well formed, `messages` says.
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
    """One end; used from one event loop, but for `receive`."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._came = bytearray()
        self._going = bytearray()
        self._heard: Callable[[bytes], None] = lambda message: None
        self._closed: Callable[[], None] = lambda: None

    def receive(self) -> bytes | None:
        """Wait for the next message, before `listen`; None when the other end is closed."""
        self._end.setblocking(True)
        while (message := self._next()) is None:
            data = self._end.recv(CHUNK)
            if not data:
                return None
            self._came += data
        return message

    def listen(self, heard: Callable[[bytes], None], closed: Callable[[], None]) -> None:
        """Have each message told as it comes, and the end of the other end; on the running loop.

        An exception of `heard` is logged: whatever one message does, the next ones are heard.
        """
        self._loop = asyncio.get_running_loop()
        self._heard, self._closed = heard, closed
        self._end.setblocking(False)
        self._loop.add_reader(self._end.fileno(), self._read)
        self._loop.call_soon(self._tell)  # what came behind the last message that was received

    def send(self, message: bytes) -> None:
        """Send a message; what the other end does not take at once goes out later.

        As much as possible goes out before this returns: the caller may be about to hang.
        """
        if self._end.fileno() < 0:
            return
        waiting = bool(self._going)
        self._going += LENGTH.pack(len(message)) + message
        if not waiting:
            self._write()

    def close(self) -> None:
        """Let go of this end."""
        if self._end.fileno() < 0:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._end.fileno())
            self._loop.remove_writer(self._end.fileno())
        self._end.close()

    def _write(self) -> None:
        try:
            self._end.setblocking(False)
            while self._going:
                sent = self._end.send(self._going)
                del self._going[:sent]
        except BlockingIOError:
            if self._loop is not None:
                self._loop.add_writer(self._end.fileno(), self._write)
            return
        except OSError:  # the other process is gone: reading tells
            self._going.clear()
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
            self._closed()
            return
        self._came += data
        self._tell()

    def _tell(self) -> None:
        try:
            while (message := self._next()) is not None:
                try:
                    self._heard(message)
                except Exception:
                    log.exception("a message of another process")
        except ValueError:
            log.exception("what came over a channel")
            self.close()
            self._closed()

    def _next(self) -> bytes | None:
        """Return the next message that is there whole.

        Raises:
            ValueError: a message is larger than any may be.
        """
        if len(self._came) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._came)
        if length > LARGEST:
            raise ValueError(f"a message of {length} bytes: expected at most {LARGEST}")
        if len(self._came) < LENGTH.size + length:
            return None
        message = bytes(self._came[LENGTH.size : LENGTH.size + length])
        del self._came[: LENGTH.size + length]
        return message

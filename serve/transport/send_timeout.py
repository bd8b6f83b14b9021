"""A limit on how long a client may leave unread what is sent to it, for HTTP and WebSockets."""

from __future__ import annotations

import asyncio
import socket
import struct

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # `struct linger` of socket(7): on, for 0 s


class SendTimeout(asyncio.Protocol):
    """A connection that is dropped when its client reads too slowly for too long."""

    send_seconds = 60.0

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    _send_timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Start the clock: the buffer of what is to be sent is full."""
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.send_seconds, self._abort)

    def resume_writing(self) -> None:
        """Stop the clock: the client has read most of it."""
        super().resume_writing()
        self._stop_sending_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._stop_sending_clock()
        super().connection_lost(exc)

    def _stop_sending_clock(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _abort(self) -> None:
        """Reset the connection: the system would keep the rest of the answer otherwise."""
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

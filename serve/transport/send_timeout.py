"""Clients that do not take what is sent to them: how long they have, whatever the protocol."""

from __future__ import annotations

import asyncio
import socket
import struct

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger of socket(7): on, for no time


class SendTimeout(asyncio.Protocol):
    """A connection that is dropped when its client takes nothing for too long."""

    send_seconds = 60.0

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    _send_timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Wait for a client to take its answer, but not for ever."""
        super().pause_writing()
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.send_seconds, self._abort)

    def resume_writing(self) -> None:
        """Go on: the client has taken most of it."""
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
        """Drop the connection, and what the system still holds of the answer."""
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.transport.abort()

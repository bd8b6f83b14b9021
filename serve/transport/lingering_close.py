"""A connection after its last answer, when its client may still be sending.

To close a socket with unread data in it resets the connection, and the reset overtakes the answer.
So the answer is sent with the end of the stream behind it, and what still comes is read and
dropped, until the client closes or a limit is reached (RFC 9112, section 9.6).
"""

from __future__ import annotations

import asyncio

MOST_BYTES = 256 << 20
MOST_SECONDS = 30.0
IDLE_SECONDS = 5.0  # without receiving a byte


class LingeringClose(asyncio.Protocol):
    """Takes a transport over from its protocol, which still hears how the connection ends."""

    def __init__(
        self,
        before: asyncio.Protocol,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Send the end of the stream, where that is possible, and begin to drop what comes."""
        self._before = before
        self._transport = transport
        self._loop = loop
        self._dropped = 0
        self._until = loop.time() + MOST_SECONDS
        self._timer = loop.call_later(IDLE_SECONDS, transport.close)
        transport.set_protocol(self)
        if transport.can_write_eof():  # TLS cannot
            transport.write_eof()
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Drop what was received; close the connection at a limit."""
        self._dropped += len(data)
        left = self._until - self._loop.time()
        if self._dropped > MOST_BYTES or left <= 0:
            self._transport.close()
            return
        self._timer.cancel()
        self._timer = self._loop.call_later(min(IDLE_SECONDS, left), self._transport.close)

    def pause_writing(self) -> None:
        """Keep the limit on the time that the client has to take its answer."""
        self._before.pause_writing()

    def resume_writing(self) -> None:
        """Tell the protocol that the client takes its answer."""
        self._before.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol that the connection has ended."""
        self._timer.cancel()
        self._before.connection_lost(exc)

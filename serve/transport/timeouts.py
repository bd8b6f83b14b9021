"""Time limits for clients that send slowly or stop, and clients that close their sending side."""

from __future__ import annotations

import asyncio
import socket
from typing import Literal, cast

from torchship.serve.transport.connection import Connection, OneWrite
from torchship.serve.transport.http_answer import http_answer
from torchship.serve.transport.send_timeout import SendTimeout

LOOK_SECONDS = 0.02  # between two checks whether a client that closed its side is still there
TCP_CLOSE = 7  # the state of a connection that was reset; linux/include/net/tcp_states.h
LONGEST_HEAD = 1 << 16  # bytes
PROBE = http_answer(100)

Stage = Literal["begun", "head", "body", "idle"]


class TimeoutProtocol(SendTimeout, Connection):
    """A connection whose client has a limited time for each step.

    The limit is for a whole header or a whole body: sending a byte now and then does not extend it.
    """

    header_seconds = 10.0
    body_seconds = 60.0

    at: Stage | None = "head"  # what is received now; None while a request is answered

    _stage: Stage | None = None  # what the limit is for
    _until: float | None = None  # when it has run out, on the event loop's clock
    _timer: asyncio.TimerHandle | None = None  # fires no later than `_until`
    _head_bytes = 0  # of a header or of trailers, without the read that began them
    _got_body = False  # in the last read, which was not trailers alone
    _one_way = False  # the client has closed its sending side

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve a client, and to wait for a header."""
        super().connection_made(transport)
        self._follow()

    def data_received(self, data: bytes) -> None:
        """Parse what was received, and start or stop the clock."""
        super().data_received(data)
        if self.at is not self._stage:
            self._follow()
        elif self.at == "head" or self.at == "body":  # which goes on
            self._head_bytes = 0 if self._got_body else self._head_bytes + len(data)
            self._got_body = False
            if self._head_bytes > LONGEST_HEAD and not self.transport.is_closing():
                what = "head is" if self.at == "head" else "trailers are"
                self.refuse(431, f"the {what} too long: expected at most {LONGEST_HEAD} bytes")

    def began(self) -> None:
        """Note that a request begins."""
        self._stage = "begun"  # the clock that runs is that of another request
        self.at = "head"

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        self.began()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that the body is received from now on."""
        self.at = "body"
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Note that not only trailers were received."""
        self._got_body = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self.at = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on after an answer: with a pipelined request, or wait for the next one."""
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        # As uvicorn does, but without making and cancelling a timer for each request.
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        if self.at is None:
            self.at = "idle"
            self._follow()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over; WebSockets have their own limits."""
        self.at = None
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self.at = None
        self._follow()
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _follow(self) -> None:
        """Set the limit for what is received now, mostly without touching the timer."""
        self._stage = self.at
        if self.at is None:
            self._until = None
            return
        self._head_bytes = 0
        now = self.loop.time()
        self._until = now + self._seconds(self.at)
        if self._timer is not None:
            if self._timer.when() <= self._until:
                return
            self._timer.cancel()
        self._timer = self.loop.call_later(self._until - now, self._look_at_clock)

    def _seconds(self, stage: Stage) -> float:
        if stage == "idle":
            return self.timeout_keep_alive
        return self.body_seconds if stage == "body" else self.header_seconds

    def _look_at_clock(self) -> None:
        self._timer = None
        if self._until is None:
            return
        left = self._until - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._look_at_clock)
        elif self.flow.read_paused or self.last_whole() is not None:  # the delay is ours
            self._follow()
        elif self.transport.is_closing():
            return
        elif self.at == "body":
            what = f"expected the whole body within {self.body_seconds:g} s"
            self.refuse(408, f"the body is late: {what}")
        else:
            self.transport.close()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Note that the client sends no more; True keeps the connection for the answer.

        A client that has only closed its sending side waits for the answer. One that has left
        looks the same until something is sent to it, so an interim response is sent (RFC 9110,
        15.2: a client must accept one that it did not ask for). A client that has left resets.
        """
        cycle = self.last_whole()
        if (
            self.scheme == "https"  # TLS has no half-closed connection
            or cycle is None
            or not hasattr(socket, "TCP_INFO")
        ):
            return None
        if not self._one_way:  # uvloop calls this again when it resumes reading
            self._one_way = True
            cycle.keep_alive = False
            # Between the answers to pipelined requests it would be taken for a part of one.
            alone = not self.pipeline and not cycle.response_started
            if alone and cycle.scope["http_version"] == "1.1":
                self.transport.write(PROBE)
                cast("OneWrite", self.transport).flush()
            self._look()
        return True

    def _look(self) -> None:
        if self.transport.is_closing():
            return
        connection = self.transport.get_extra_info("socket")
        if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE:
            self._abort()
        else:
            self.loop.call_later(LOOK_SECONDS, self._look)

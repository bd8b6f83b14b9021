"""uvicorn's HTTP connection, with each answer in one write, and with refusals of its own.

uvicorn writes the header and the body of an answer separately, which costs a system call and a
packet each: for small answers more than all of the decoding.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from torchship.serve.http.error_responses import error_body
from torchship.serve.system.body_memory import HOLD_KEY, BodyHold, BodyMemory, hold_of
from torchship.serve.transport.framing import HeadError, check_head
from torchship.serve.transport.http_answer import error_lines, header_lines, http_answer
from torchship.serve.transport.lingering_close import LingeringClose

UPGRADING = (b"upgrade", b"http2-settings")  # header fields of an upgrade, and `Connection`'s words


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol over a transport that writes header and body together."""

    first: RequestResponseCycle | None = None
    """The request that is answered now, or was last; pipelined ones behind it are in `pipeline`."""

    body_memory = BodyMemory(1 << 62)
    """For the bodies that all connections of the process hold."""

    refused = 0
    """The status that `refuse` ended the connection with."""

    _default: ClassVar[tuple[object, bytes]] = (None, b"")

    _declined = False  # the request that comes in asks for an upgrade that is not supported
    _fault: HeadError | None = None  # why the parser was stopped

    def default_lines(self) -> bytes:
        """Return the header lines that every answer has; uvicorn renews them each second."""
        headers = self.server_state.default_headers
        known, lines = Connection._default
        if headers is not known:
            lines = header_lines(headers)
            Connection._default = (headers, lines)
        return lines

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve a client."""
        one_write = OneWrite(transport, self.loop, self.linger)
        super().connection_made(cast("asyncio.Transport", one_write))

    def linger(self, transport: asyncio.Transport) -> bool:
        """Keep reading from a connection that is to close, if its client may still be sending."""
        cycle = self.cycle
        sending = cycle is not None and cycle.more_body
        if not (sending or self.refused or self.flow.read_paused or self.pipeline):
            return False
        self.connections.discard(self)  # the server's end need not wait for it
        LingeringClose(self, transport, self.loop)
        return True

    def data_received(self, data: bytes) -> None:
        """Parse what was received.

        An upgrade that is not supported is ignored (RFC 9110, 7.8): some clients offer HTTP/2 with
        every request. The parser stops before the body of such a request, so it is fed again.
        """
        self._unset_keepalive_if_required()
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                fault = self._fault or HeadError(400, "invalid http request received")
                self.refuse(fault.status, str(fault))
            except httptools.HttpParserUpgrade as upgrade:
                if self._declined:
                    data = self._without_upgrade() + data[upgrade.args[0] :]
                    continue
                if self._should_upgrade():
                    if self.last_whole() is None:
                        self.handle_websocket_upgrade()
                    else:  # its answer would come among the frames
                        self.refuse(400, "expected no upgrade before the answer to the request")
            return

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header field; space around its value is not part of it (RFC 9112, 5.1)."""
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Check the header of a request, and begin to answer it; a `HeadError` stops the parser."""
        try:
            check_head(self.parser.get_http_version(), self.headers)
        except HeadError as fault:
            self._fault = fault
            raise
        self.expect_100_continue = (b"expect", b"100-continue") in (
            (name, value.lower()) for name, value in self.headers
        )
        self._declined = (
            self.parser.should_upgrade()
            and self.parser.get_method() != b"CONNECT"
            and not self._should_upgrade()
        )
        if self._declined:
            return
        cast("dict[str, object]", self.scope)[HOLD_KEY] = BodyHold(self.body_memory)
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            # The scope keeps the list. Trailers, which come after the body, are dropped: a proxy
            # that checked the header has not seen them (RFC 9110, 6.5.1).
            self.headers = cast("list[tuple[bytes, bytes]]", deque(maxlen=0))

    def on_body(self, body: bytes) -> None:
        """Account for the memory of a part of a request's body."""
        if not self.cycle.response_complete:
            hold_of(self.cycle.scope).add(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Mark a request as complete."""
        if not self._declined:
            super().on_message_complete()
            if self.cycle is not None:  # uvicorn does not, where it was answered before
                self.cycle.more_body = False

    def _without_upgrade(self) -> bytes:
        """Return the header of the request without the upgrade, for a new parser."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                value = b", ".join(token for token in tokens if token.lower() not in UPGRADING)
            if name not in UPGRADING and (value or name != b"connection"):
                lines.append(b"%b: %b" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        return b"\r\n".join((*lines, b"", b""))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.first = cycle
        super()._start_asgi_task(cycle, app)

    def last_whole(self) -> RequestResponseCycle | None:
        """Return the last complete request that is not answered yet; None if there is none."""
        first, last = self.first, self.cycle
        if first is None or first.more_body or first.response_complete:
            return None
        if last.more_body:
            return self.pipeline[1][0] if len(self.pipeline) > 1 else first
        return last

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the requests that the client has left; uvicorn tells only the last one."""
        super().connection_lost(exc)
        if self.first is not None and not self.first.response_complete:
            self.first.disconnected = True
            self.first.message_event.set()
        for cycle, _ in self.pipeline:  # they will not be answered
            hold_of(cycle.scope).release()

    def send_400_response(self, msg: str) -> None:
        """Answer 400 in the form of every error, and end the connection."""
        self.refuse(400, msg)

    def refuse(self, status: int, message: str) -> None:
        """Answer what was received with an error, and end the connection.

        A client takes the next answer for that to its oldest request. So where a complete request
        is not answered yet, nothing is sent: the connection ends with that request's answer.
        Nothing is sent either on a connection that is closing.
        """
        if self.transport.is_closing():
            return
        if (last := self.last_whole()) is not None:
            last.keep_alive = False
            self.flow.pause_reading()
            return
        cycle = self.cycle
        coming = cycle if cycle is not None and cycle.more_body else None
        self.refused = status
        if coming is None or not coming.response_started:
            self._send_refusal(status, message, coming)
        self.transport.close()

    def _send_refusal(self, status: int, message: str, coming: RequestResponseCycle | None) -> None:
        body = error_body(message)
        more = header_lines(self.account_refusal(coming, status))
        lines = self.default_lines() + error_lines(body) + more
        self.transport.write(http_answer(status, lines, body, last=True))

    def abandon(self, coming: RequestResponseCycle, status: int) -> None:
        """Have the application stop reading a body, and account for the `status` that was sent."""
        coming.refused = status  # type: ignore[attr-defined]
        coming.disconnected = True
        coming.message_event.set()

    def account_refusal(
        self, coming: RequestResponseCycle | None, status: int
    ) -> list[tuple[bytes, bytes]]:
        """Account for a refusal of this request, or of what never became one.

        Returns the header fields that the refusal has besides.
        """
        if coming is not None:
            self.abandon(coming, status)
        return []


class OneWrite:
    """A transport that joins the first write in a turn of the event loop with the second."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        linger: Callable[[asyncio.Transport], bool] = lambda _: False,
    ) -> None:
        """Write to `transport`; `linger` may take it over instead of its being closed."""
        self._transport = transport
        self._loop = loop
        self._linger = linger
        self._lingers = False
        self._held: bytes | None = None
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the transport, after writing what is held.

        `set_protocol` (an upgrade to WebSocket), `write_eof` and `abort` come this way.
        """
        self.flush()
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold the first write until the end of the turn; write the second together with it."""
        if self._held is None:
            self._held = data
            self._loop.call_soon(self.flush)
        else:
            self._transport.write(self._held + data)
            self._held = None

    def write_whole(self, data: bytes) -> None:
        """Write an answer that is complete."""
        self.flush()
        self._transport.write(data)

    def flush(self) -> None:
        """Write what is held."""
        if self._held is not None:
            held, self._held = self._held, None
            self._transport.write(held)

    def close(self) -> None:
        """Close the connection when all is written."""
        self.flush()
        if not self._lingers:
            self._lingers = self._linger(self._transport)
        if self._lingers:
            self.is_closing = lambda: True
        else:
            self._transport.close()

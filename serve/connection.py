"""A connection as uvicorn has it, with each answer in one write.

uvicorn writes an answer's head and its body separately, which is a system call and a packet each;
for small answers that costs more than all of the decoding.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

UPGRADING = (b"upgrade", b"http2-settings")  # header fields of an upgrade, and `Connection`'s words


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol over a transport that keeps a head back until its body comes."""

    first: RequestResponseCycle | None = None
    """The request whose turn it is or last was; those that came behind it wait in `pipeline`."""

    _declined = False  # what comes asks for an upgrade that is not made

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to serve a client."""
        super().connection_made(cast("asyncio.Transport", OneWrite(transport, self.loop)))

    def data_received(self, data: bytes) -> None:
        """Take what came.

        An upgrade that is not made is passed over (RFC 9110, 7.8): some clients offer HTTP/2 with
        whatever they ask. The parser leaves the body of such a request out; it is given it again.
        """
        self._unset_keepalive_if_required()
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                self.logger.warning("Invalid HTTP request received.")
                self.send_400_response("invalid http request received")
            except httptools.HttpParserUpgrade as upgrade:
                if self._declined:
                    data = self._without_upgrade() + data[upgrade.args[0] :]
                    continue
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
            return

    def on_headers_complete(self) -> None:
        """Take the end of a request's head."""
        self._declined = (
            self.parser.should_upgrade()
            and self.parser.get_method() != b"CONNECT"
            and not self._should_upgrade()
        )
        if not self._declined:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Take the end of a request."""
        if not self._declined:
            super().on_message_complete()

    def _without_upgrade(self) -> bytes:
        """Return the head that came, without its wish; begin to parse anew."""
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
        """Return the last request that came whole and is not answered; None if there is none."""
        first, last = self.first, self.cycle
        if first is None or first.more_body or first.response_complete:
            return None
        if last.more_body:
            return self.pipeline[1][0] if len(self.pipeline) > 1 else first
        return last

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the client has left; uvicorn tells the last request only."""
        super().connection_lost(exc)
        if self.first is not None and not self.first.response_complete:
            self.first.disconnected = True
            self.first.message_event.set()

    def send_400_response(self, msg: str) -> None:
        """Say, in the form of every error, that what came is no HTTP; the connection ends."""
        self.refuse(b"400 Bad Request", msg)

    def refuse(self, status: bytes, message: str) -> None:
        """Answer what came with an error, and end the connection.

        A client takes what is said next for the answer to what it asked first: where a request is
        not answered yet, the connection ends with its answer.
        """
        if (last := self.last_whole()) is not None:
            last.keep_alive = False
            self.flow.pause_reading()
            return
        body = orjson.dumps({"error": message})
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(body), body)
        )
        self.transport.close()


class OneWrite:
    """A transport that joins the first write of a turn of the event loop with the second."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: bytes | None = None
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def __getattr__(self, name: str) -> Any:
        """Return what else the transport has; what is held goes out before anything else is done.

        `set_protocol` (an upgrade to WebSocket), `write_eof` and `abort` come this way.
        """
        self.flush()
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write what is held and this together; hold it, to the turn's end, if it is the first."""
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
        self._transport.close()

"""A WebSocket as uvicorn has it, except how it ends and how much memory its messages may take."""

from __future__ import annotations

from asyncio import BaseTransport
from collections import deque
from http import HTTPStatus
from typing import ClassVar

from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

from torchship.serve.http.error_responses import error_body
from torchship.serve.http.proxies import Proxies
from torchship.serve.service.accounting import RequestAccounting
from torchship.serve.settings import Settings
from torchship.serve.system.body_memory import BodyHold, BodyMemory
from torchship.serve.transport.http_answer import error_lines, http_answer
from torchship.serve.transport.lingering_close import MOST_SECONDS, LingeringClose
from torchship.serve.transport.send_timeout import SendTimeout

DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
TRY_AGAIN_LATER = 1013  # of RFC 6455's registry of close codes
MESSAGE_TOO_BIG = 1009
SWITCHING = HTTPStatus.SWITCHING_PROTOCOLS

STATUS_OF_CODE = {
    MESSAGE_TOO_BIG: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TRY_AGAIN_LATER: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""What a message is counted with that was refused with a close code; 400 for any other code."""


class WebSocketProtocol(SendTimeout, WebSocketsSansIOProtocol):
    """uvicorn's protocol, which answers what it was asked last before the server ends.

    It takes a handshake that was answered with a status as complete. uvicorn itself does so for a
    plain close only, and logs anything else as a fault of the application.
    """

    accounting: ClassVar[RequestAccounting]
    proxies = Proxies()

    body_memory = BodyMemory(1 << 62)
    """For the messages that all connections of the process hold."""

    _answering = False  # the application works on a message
    _ending = False
    _lingers = False  # what is received is dropped

    def data_received(self, data: bytes) -> None:
        """Parse what was received; refuse a malformed handshake, which uvicorn does not report."""
        super().data_received(data)
        if self._lingers:
            return
        self._hold.add(self._framed + len(self.conn.reader.buffer) - self._hold.size)
        if self.body_memory.held > self.body_memory.most:
            self._overload()
        error = self.conn.handshake_exc
        if error is not None and not self.handshake_initiated:
            body = error_body(f"the WebSocket's handshake: {error}")
            self.transport.write(http_answer(400, error_lines(body), body, last=True))
            self.transport.close()
            self._account(400)

    def connection_made(self, transport: BaseTransport) -> None:
        """Begin to serve a client."""
        self._hold = BodyHold(self.body_memory)
        self._framed = 0  # bytes of frames, inflated, of messages that are not answered yet
        self._sizes: deque[int] = deque()  # of messages that the application has not received yet
        self._taken = 0  # bytes of the message that the application works on
        super().connection_made(transport)

    def handle_events(self) -> None:
        """Handle the frames that were received, and count their bytes."""
        for event in self.conn.events:
            if isinstance(event, Frame) and event.opcode in DATA:
                self._framed += len(event.data)
        super().handle_events()

    def send_receive_event_to_app(self) -> None:
        """Queue a complete message for the application."""
        self._sizes.append(sum(map(len, self.frames)))
        super().send_receive_event_to_app()

    def _overload(self) -> None:
        """End the connection: there is no memory for what is received."""
        if not self.handshake_complete:
            self.transport.close()
        elif not self.close_sent:
            self.conn.fail(TRY_AGAIN_LATER, "the server has no room for the message")
            self.handle_parser_exception()

    def handle_parser_exception(self) -> None:
        """Refuse a message: say why, account for it once, and read on until the client closes.

        To close the socket at once would reset the connection if the client still sends, and the
        reset overtakes the close frame. The fragments that have come are dropped here, so that
        nobody else is refused for their memory.
        """
        close = self.conn.close_sent
        if close is None or self.close_sent or self._lingers:
            return
        self._lingers = self.close_sent = True
        self.queue.put_nowait(
            {"type": "websocket.disconnect", "code": close.code, "reason": close.reason}
        )
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.frames = []
        self._framed = self._taken + sum(self._sizes)
        self._hold.add(self._framed - self._hold.size)
        self._account(STATUS_OF_CODE.get(close.code, HTTPStatus.BAD_REQUEST), self.request)
        # Without a timer uvicorn closes the connection as soon as the application has ended.
        self.close_timer = self.loop.call_later(MOST_SECONDS, self.transport.close)
        LingeringClose(self, self.transport, self.loop)

    async def run_asgi(self) -> None:
        """Run the application; the memory of its messages is free when it has ended."""
        try:
            await super().run_asgi()
        finally:
            self._hold.release()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the memory of messages that nobody will answer."""
        super().connection_lost(exc)
        if not self._answering:
            self._hold.release()

    def handle_connect(self, event: Request) -> None:
        """Begin with a handshake, or account for its refusal by uvicorn."""
        super().handle_connect(event)
        if self.response.status_code != SWITCHING:
            self._account(self.response.status_code, event)

    def _account(self, status: int, event: Request | None = None) -> None:
        fields = [] if event is None else event.headers.raw_items()
        headers = [(k.lower().encode(), v.encode("latin-1")) for k, v in fields]
        record = self.accounting.begin(headers)
        record.status = status
        path = "" if event is None else event.path
        client = self.proxies.client(self.client, headers)
        self.accounting.end({"type": "websocket", "path": path, "client": client}, record)

    async def receive(self) -> ASGIReceiveEvent:
        """Give the application the next message; none when the server ends."""
        self._answering = False
        self._framed -= self._taken
        self._hold.add(-min(self._taken, self._hold.size))
        self._taken = 0
        if self._ending:
            self.shutdown()
            return {"type": "websocket.disconnect", "code": 1012}
        message = await super().receive()
        self._answering = message["type"] == "websocket.receive"
        if self._answering:
            self._taken = self._sizes.popleft()
        return message

    def shutdown(self) -> None:
        """End the connection as soon as its handshake, or the message it works on, is answered."""
        self._ending = True
        if self._lingers:
            self.transport.close()
            return
        handshaking = self.handshake_initiated and not self.handshake_complete
        if not self._answering and not handshaking:
            super().shutdown()

    async def send(self, message: ASGISendEvent) -> None:
        """Send a message of the application."""
        await super().send(message)
        if self.close_sent:
            self.handshake_complete = True


def websocket_protocol(
    settings: Settings,
    *,
    accounting: RequestAccounting,
    memory: BodyMemory,
    trusted: Proxies | None = None,
) -> type[WebSocketProtocol]:
    """Return the class of a server's WebSockets.

    Args:
        settings: how long a client may take for what is sent to it.
        accounting: takes in what was refused without the application.
        memory: for the messages and bodies of all clients.
        trusted: the proxies that are believed.
    """
    takes_in, believed = accounting, trusted or Proxies()

    class ServerWebSocket(WebSocketProtocol):
        accounting = takes_in
        proxies = believed
        body_memory = memory
        send_seconds = settings.send_seconds

    return ServerWebSocket

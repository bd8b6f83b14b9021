"""A WebSocket as uvicorn has it, but for how it ends."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar

import orjson
from uvicorn._types import ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from torchship.serve.front import Front
from torchship.serve.sending import Sending

if TYPE_CHECKING:
    from torchship.serve.app import Application
    from torchship.serve.settings import Settings

SWITCHING = HTTPStatus.SWITCHING_PROTOCOLS


class Socket(Sending, WebSocketsSansIOProtocol):
    """uvicorn's protocol, which answers the message that it has before the server ends.

    It takes a handshake that was answered with a status as complete. uvicorn itself does so for a
    plain close only, and logs anything else as a fault of the application.
    """

    front: ClassVar[Front]

    _answering = False  # the application has a message, and has not come back for the next
    _ending = False

    def data_received(self, data: bytes) -> None:
        """Take what came; refuse a handshake of which uvicorn is told nothing."""
        super().data_received(data)
        error = self.conn.handshake_exc
        if error is not None and not self.handshake_initiated:
            body = orjson.dumps({"error": f"the WebSocket's handshake: {error}"})
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body), body)
            )
            self.transport.close()
            self._count(400)

    def handle_connect(self, event: Request) -> None:
        """Begin with a handshake, or count its refusal by the protocol's own rules."""
        super().handle_connect(event)
        if self.response.status_code != SWITCHING:
            self._count(self.response.status_code, event)

    def _count(self, status: int, event: Request | None = None) -> None:
        headers = [] if event is None else list(event.headers.raw_items())
        record = self.front.begin((k.lower().encode(), v.encode("latin-1")) for k, v in headers)
        record.status = status
        path = "" if event is None else event.path
        self.front.ended({"type": "websocket", "path": path, "client": self.client}, record)

    async def receive(self) -> ASGIReceiveEvent:
        """Give the application the next message; none when the server ends."""
        self._answering = False
        if self._ending:
            self.shutdown()
            return {"type": "websocket.disconnect", "code": 1012}
        message = await super().receive()
        self._answering = message["type"] == "websocket.receive"
        return message

    def shutdown(self) -> None:
        """End the connection, when the message that it is about is answered."""
        self._ending = True
        if not self._answering:
            super().shutdown()

    async def send(self, message: ASGISendEvent) -> None:
        """Send what the application says."""
        await super().send(message)
        if self.close_sent:
            self.handshake_complete = True


def websocket(settings: Settings, app: Application) -> type[Socket]:
    """Return the protocol class of an application, with the times of the settings."""

    class Timed(Socket):
        front = app.front
        send_seconds = settings.send_seconds

    return Timed

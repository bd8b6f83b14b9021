"""A WebSocket as uvicorn has it; a refusal in the protocol's form is no fault of ours."""

from __future__ import annotations

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class Socket(WebSocketsSansIOProtocol):
    """uvicorn's protocol; it takes a handshake that was answered with a status as complete.

    uvicorn itself does so for a plain close only, and logs anything else as a fault of the
    application.
    """

    async def send(self, message: ASGISendEvent) -> None:
        """Send what the application says."""
        await super().send(message)
        if self.close_sent:
            self.handshake_complete = True

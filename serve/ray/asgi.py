"""Our application behind Ray's proxy, which sends the ASGI messages of a request to a replica."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from torchship.serve.http.app import Application
from torchship.serve.http.header_names import REQUEST_ID
from torchship.serve.ray.held_models import HeldModels
from torchship.serve.ray.routing import model_of_path
from torchship.serve.system.body_memory import HOLD_KEY, BodyHold


class BehindProxy:
    """What our own connections do for the application, and Ray's proxy does not."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; its path is the one below the application's route prefix."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        prefix = scope.get("root_path", "").rstrip("/")
        if scope["type"] == "http" and scope["path"] == prefix != "":
            # The page's own addresses are relative: without the / at its end they would be wrong.
            await RedirectResponse(f"{prefix.rpartition('/')[2]}/")(scope, receive, send)
            return
        hold = BodyHold(self._application.body_memory)

        async def counted() -> Message:
            message = await receive()
            hold.add(len(message.get("body") or b""))
            return message

        async def answered(message: Message) -> None:
            # The proxy writes the id into the answer itself, as it wrote it into the request.
            if "headers" in message and _request_id(scope):
                message = {**message, "headers": _without_id(message["headers"])}
            await send(message)

        path = scope["path"].removeprefix(prefix) or "/"
        below = {**scope, "path": path, "root_path": "", HOLD_KEY: hold}
        try:
            await self._application(below, counted, answered)
        finally:
            hold.release()


class Multiplexing:
    """Has the model live that a request names; inside of what checks who may ask."""

    def __init__(self, app: ASGIApp, models: HeldModels) -> None:
        self._app = app
        self._models = models

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application while the model is held."""
        async with self._models.needed(model_of_path(scope["path"])):
            await self._app(scope, receive, send)


def _request_id(scope: Scope) -> bool:
    return any(name == REQUEST_ID for name, _ in scope["headers"])


def _without_id(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name != REQUEST_ID]


async def _lifespan(receive: Receive, send: Send) -> None:
    """Say that the application has started and ended: the replica does both."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return

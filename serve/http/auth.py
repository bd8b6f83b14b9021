"""API keys in front of every route except health."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from torchship.serve.errors import RateError, UnauthorizedError
from torchship.serve.service.api_keys import KeyRing, digest_of

OPEN = "/v2/health/"  # a load balancer has no key

ADMIT_KEY = "torchship.admit"
"""Where a WebSocket's scope has what each of its messages is to call: it raises `RateError`,
and `UnauthorizedError` once the key is not known any more."""


class Guard:
    """Lets through requests and WebSockets that bring a known key and are within its rate."""

    def __init__(self, app: ASGIApp, keys: KeyRing, answer: Callable[[Exception], ASGIApp]) -> None:
        """Put this in front of `app`."""
        self.app = app
        self.keys = keys
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 401 or 429."""
        if scope["type"] in ("http", "websocket") and not scope["path"].startswith(OPEN):
            try:
                digest = digest_of(scope["headers"])
                self.keys.admit(digest)
                if scope["type"] == "websocket":
                    scope[ADMIT_KEY] = partial(self.keys.admit, digest)
            except (UnauthorizedError, RateError) as error:
                await self._answer(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

"""API keys in front of every route except health and the page's own files."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from starlette.types import ASGIApp, Receive, Scope, Send

from torchship.serve.errors import RateError, UnauthorizedError
from torchship.serve.service.api_keys import KeyRing, digest_of, digest_of_encoded

OPEN = "/v2/health/"  # a load balancer has no key
READING = frozenset({"GET", "HEAD"})

SUBPROTOCOL = "torchship"
"""What a WebSocket's client may name as its subprotocol; it is the messages of a stream."""
KEY_SUBPROTOCOL = f"{SUBPROTOCOL}.key."
"""Begins the subprotocol that brings a key: base64url without padding follows."""

ADMIT_KEY = "torchship.admit"
"""Where a WebSocket's scope has what each of its messages is to call: it raises `RateError`,
and `UnauthorizedError` once the key is not known any more."""


KEY_NAME = "torchship.key_name"
"""Where a scope has the name of the key that the request brought."""


class Guard:
    """Lets through requests and WebSockets that bring a known key and are within its rate."""

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing,
        answer: Callable[[Exception], ASGIApp],
        is_public: Callable[[str], bool] | None = None,
    ) -> None:
        """Put this in front of `app`; `is_public` says which paths anybody may read."""
        self.app = app
        self.keys = keys
        self._answer = answer
        self._is_public = is_public or (lambda path: False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with 401 or 429."""
        if scope["type"] in ("http", "websocket") and not self._is_open(scope):
            try:
                digest = _digest_of(scope)
                scope[KEY_NAME] = self.keys.admit(digest)
                if scope["type"] == "websocket":
                    scope[ADMIT_KEY] = partial(self.keys.admit, digest)
            except (UnauthorizedError, RateError) as error:
                await self._answer(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path: str = scope["path"]
        if path.startswith(OPEN):
            return True
        return scope["type"] == "http" and scope["method"] in READING and self._is_public(path)


def _digest_of(scope: Scope) -> bytes:
    """Return the digest of the key that a request or a WebSocket brings.

    A browser lets a page set no header field of a WebSocket but its subprotocols.

    Raises:
        UnauthorizedError: it brings none, or one that is not encoded as it must be.
    """
    for offered in scope.get("subprotocols", ()):
        if offered.startswith(KEY_SUBPROTOCOL):
            return digest_of_encoded(offered.removeprefix(KEY_SUBPROTOCOL))
    return digest_of(scope["headers"])

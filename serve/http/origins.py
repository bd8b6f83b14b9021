"""Cross-origin requests: which web pages may ask, and what their browser is told.

A browser lets any page send simple requests and open WebSockets to any server that it can reach,
with the page's origin in `Origin`; only the answers are kept from the page. So a request that may
change something, and a WebSocket, is refused to a page that was not allowed, the server's own
pages excepted. Programs that are no browser send no `Origin`.

Sources: the Fetch standard (CORS protocol), RFC 6454, and Fetch Metadata (`Sec-Fetch-Site`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from torchship.serve.errors import OriginError, RequestError
from torchship.serve.http.proxies import FORWARDED_HOST
from torchship.serve.protocol.tensors import short
from torchship.serve.settings import is_loopback

Headers = Iterable[tuple[bytes, bytes]]

METHODS = "DELETE, GET, HEAD, OPTIONS, POST, PUT"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
EXPOSED = b"Inference-Header-Content-Length, Retry-After, X-Request-Id"
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
PREFLIGHT_SECONDS = "600"


class Origins:
    """The origins that may ask: those allowed, of which `*` is any, and the server's own."""

    def __init__(self, allowed: Collection[str] = (), host: str = "0.0.0.0") -> None:
        """Allow these, on a server that listens on that address."""
        self._any = "*" in allowed
        self._local = is_loopback(host)
        self._allowed = frozenset(allowed)

    def headers(self, asked: Headers) -> list[tuple[bytes, bytes]]:
        """Return what any answer to a request with these headers says of origins."""
        if not self._allowed:
            return []
        if self._any:
            allowed = b"*"
        else:
            origin = _value(asked, b"origin")
            if origin is None or origin.decode("latin-1") not in self._allowed:
                return [(b"vary", b"Origin")]
            allowed = origin
        said = [
            (b"access-control-allow-origin", allowed),
            (b"access-control-expose-headers", EXPOSED),
        ]
        return said if self._any else [*said, (b"vary", b"Origin")]

    def check(self, scope: Scope) -> None:
        """Refuse a request of a page that may not make it.

        Raises:
            OriginError: the page is neither allowed nor the server's own.
        """
        if self._any:
            return
        for name, value in scope["headers"]:
            if name != b"origin":
                continue
            origin = value.decode("latin-1")
            if origin not in self._allowed and not _is_own(origin, scope, self._local):
                raise OriginError(
                    f"the origin {short(origin)} may not ask: expected one of --cors-origin, "
                    "or this server's own"
                )

    def preflight(self, scope: Scope) -> Response | None:
        """Return the answer to a browser that asks what a page may ask; None if it does not.

        Raises:
            RequestError: the page may not ask anything.
        """
        asked = scope["headers"]
        wanted = _value(asked, b"access-control-request-method")
        if not self._allowed or wanted is None or _value(asked, b"origin") is None:
            return None
        try:
            self.check(scope)
        except OriginError as error:  # nothing was asked yet that could be forbidden
            raise RequestError(str(error)) from None
        headers = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Max-Age": PREFLIGHT_SECONDS,
            "Vary": "Access-Control-Request-Method, Access-Control-Request-Headers",
        }
        fields = _value(asked, b"access-control-request-headers")
        if fields is not None:
            headers["Access-Control-Allow-Headers"] = fields.decode("latin-1")
        return Response(b"", 200, headers)


class OriginGuard:
    """Answers preflights, and keeps from the application what a page may not ask."""

    def __init__(
        self, app: ASGIApp, origins: Origins, answer: Callable[[Exception], ASGIApp]
    ) -> None:
        self.app = app
        self._origins = origins
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        app: ASGIApp = self.app
        try:
            if scope["type"] == "websocket" or scope["method"] not in SAFE:
                self._origins.check(scope)
            elif scope["method"] == "OPTIONS":
                app = self._origins.preflight(scope) or app
        except (OriginError, RequestError) as error:
            app = self._answer(error)
        await app(scope, receive, send)


def _value(headers: Headers, wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)


def _is_own(origin: str, scope: Scope, local: bool) -> bool:
    """Return whether a page comes from this server, as far as the request tells.

    Browsers say so themselves to servers with TLS and on their own machine, and let no page say
    it. Otherwise the page's host must be the one that was asked. Where that came without TLS a
    page over TLS will do: a proxy ends it. A name is worth nothing to a server that only its own
    machine can reach: any page can have its name point there (DNS rebinding).
    """
    headers: Headers = scope["headers"]
    if origin == "null":  # a sandbox, a file: nobody's
        return False
    if _value(headers, b"sec-fetch-site") == b"same-origin":
        return True
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    place = _place(origin)
    if place is None or (scheme == "https" and not origin.startswith("https:")):
        return False
    asked = scope.get(FORWARDED_HOST) or _value(headers, b"host") or b""
    if local and FORWARDED_HOST not in scope and not is_loopback(place[0]):
        return False
    return place == _place(f"{origin.partition(':')[0]}://{asked.decode('latin-1')}")


def _place(origin: str) -> tuple[str, int] | None:
    """Return the host and port of an origin; None if it is none."""
    try:
        parts = urlsplit(origin)
        port = parts.port or PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None
    if not parts.hostname or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    return parts.hostname, port

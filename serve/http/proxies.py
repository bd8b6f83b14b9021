"""Proxies in front of the server: the client behind a proxy that is trusted.

Anybody can send `X-Forwarded-For`, `-Proto` and `-Host`. They count only if the connection
comes from an address that `--forwarded-allow-ips` names.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TypeAlias

from starlette.types import ASGIApp, Receive, Scope, Send

from torchship.serve.settings import Network

FORWARDED_HOST = "torchship.host"
"""Where a request's ASGI scope has the host that a trusted proxy was asked for."""

Client: TypeAlias = tuple[str, int]

SCHEMES = (b"http", b"https", b"ws", b"wss")


class Proxies:
    """The proxies that are trusted."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._networks = tuple(networks)

    def __bool__(self) -> bool:
        """Return whether any is."""
        return bool(self._networks)

    def client(self, peer: Client | None, headers: Iterable[tuple[bytes, bytes]]) -> Client | None:
        """Return the client: the last address in `X-Forwarded-For` that is not a trusted proxy."""
        if peer is None or not self.believes(peer):
            return peer
        fields = [value for name, value in headers if name == b"x-forwarded-for"]
        found = peer
        # Each proxy appends the address that it was asked from; what stands before the first
        # address that is not trusted could have been written by anybody.
        for hop in reversed(b",".join(fields).decode("latin-1").split(",")):
            client = _client(hop.strip())
            if client is None:
                break
            found = client
            if not self.believes(client):
                break
        return found

    def believes(self, client: Client) -> bool:
        """Return whether an address is that of a trusted proxy."""
        address = _address(client[0])
        return address is not None and any(address in network for network in self._networks)


class ForwardedHeaders:
    """Puts the client, the scheme and the host that a trusted proxy names into the scope."""

    def __init__(self, app: ASGIApp, proxies: Proxies) -> None:
        self.app = app
        self._proxies = proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; its scope is changed in place, and with it the access log."""
        peer = scope.get("client")
        if peer is not None and self._proxies.believes(peer):
            headers = scope["headers"]
            scope["client"] = self._proxies.client(peer, headers)
            for name, value in headers:
                last = value.rpartition(b",")[2].strip().lower()
                if name == b"x-forwarded-host":
                    scope[FORWARDED_HOST] = last
                elif name == b"x-forwarded-proto" and last in SCHEMES:
                    scheme = last.decode()
                    if scope["type"] == "websocket":
                        scheme = scheme.replace("http", "ws")
                    scope["scheme"] = scheme
        await self.app(scope, receive, send)


def _client(hop: str) -> Client | None:
    """Return address and port (0 if not given) of `192.0.2.1:80`, `[2001:db8::1]:80` or less."""
    host, port = hop, ""
    if hop.startswith("["):
        host, _, rest = hop[1:].partition("]")
        port = rest.removeprefix(":")
    elif hop.count(":") == 1:
        host, _, port = hop.partition(":")
    address = _address(host)
    if address is None:
        return None
    return str(address), int(port) if port.isascii() and port.isdigit() and len(port) < 6 else 0


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)  # of a socket for both kinds
    return mapped or address

"""Listening sockets, bound so that two servers never share a port by mistake."""

from __future__ import annotations

import socket

from torchship.script.errors import UsageError

BACKLOG = 2048


def bind(host: str, port: int, *, shared: bool = False, listening: bool = False) -> socket.socket:
    """Return a socket bound to the address; `shared` allows other workers to bind it too.

    Raises:
        UsageError: the address is in use, or not one of this machine.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if ":" in host:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
        if listening:
            bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return bound


def reserve(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen; it reserves the port for the workers.

    Raises:
        UsageError: the address is in use, or not one of this machine.
    """
    reserved = bind(host, port)
    # Now that the port is ours alone, allow it to be shared, but only by sockets that ask for it.
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return reserved


def url_of(bound: socket.socket, tls: bool, protocol: str = "http") -> str:
    """Return the base URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    scheme = f"{protocol}s" if tls else protocol
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

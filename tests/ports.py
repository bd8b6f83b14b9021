"""Ports for servers that must be told theirs before they start."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port() -> Iterator[int]:
    """Yield a port that the system gives to nobody else, and that a server can be told to bind.

    A socket stays bound to it and does not listen. Linux binds a second one where both ask for
    SO_REUSEADDR, as the server does, and never chooses such a port by itself.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        yield port

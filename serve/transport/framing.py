"""Headers that are ambiguous: a proxy in front of this server could read them differently.

Source: RFC 9112, sections 2.3, 3.2, 6.1 and 6.3. The parser itself refuses what is not HTTP,
folded lines, two lengths, and a length beside `Transfer-Encoding`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

VALID_HOST = re.compile(rb"[A-Za-z0-9._~%!$&'()*+,;=:\[\]-]*").fullmatch
"""Called with the value of a `Host` header; a match if it may be one."""


class HeadError(Exception):
    """A header that is refused with `status`; the connection ends."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check_head(version: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a request of which it is unclear where its body ends, or which host it is for.

    Raises:
        HeadError: a version of HTTP other than 1.0 and 1.1, not exactly one `Host`, or a
            transfer coding other than `chunked`.
    """
    if version not in ("1.0", "1.1"):
        raise HeadError(505, f"expected HTTP/1.1 or HTTP/1.0, got HTTP/{version}")
    hosts = 0
    for name, value in headers:
        if name == b"host":
            hosts += 1
            if not VALID_HOST(value):
                raise HeadError(400, "expected a host name or address in Host")
        elif name == b"transfer-encoding":
            if version == "1.0":
                raise HeadError(400, "Transfer-Encoding: expected none in HTTP/1.0")
            if value.lower() != b"chunked":
                raise HeadError(501, "Transfer-Encoding: expected chunked alone")
    if hosts > 1 or (not hosts and version == "1.1"):
        raise HeadError(400, f"expected one Host header, got {hosts}")

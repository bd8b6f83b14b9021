"""HTTP/1.1 answers as bytes, for the connections that write them without the application."""

from __future__ import annotations

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

CLOSE = b"connection: close\r\n"


def http_answer(status: int, lines: bytes = b"", body: bytes = b"", last: bool = False) -> bytes:
    """Return a whole answer; `lines` are those of its header, each with its line end.

    `last` says that the connection ends with it.
    """
    return b"%b%b%b\r\n%b" % (STATUS_LINE[status], lines, CLOSE if last else b"", body)


def header_lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return header fields as the lines of an answer."""
    return b"".join([b"%b: %b\r\n" % field for field in headers])


def error_lines(body: bytes) -> bytes:
    """Return the lines that describe the body of an error."""
    return b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)

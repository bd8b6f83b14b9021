"""Compressed bodies: `Content-Encoding` gzip and deflate; inflating has a limit on the size.

Sources: RFC 1950 (zlib), RFC 1951 (raw deflate), RFC 1952 (gzip), RFC 9110 section 8.4.
"""

from __future__ import annotations

import zlib

from torchship.serve.errors import BodyTooLargeError, EncodingError, RequestError
from torchship.serve.protocol.tensors import short

ACCEPTED = ("gzip", "deflate", "identity")

# Only these exact values of `Accept-Encoding` get a compressed answer. Many clients send a longer
# list by default; they get an uncompressed answer, because most models are faster than zlib.
OFFERED = frozenset({b"gzip", b"deflate"})

LARGEST_RATIO = 1032  # zlib's largest ratio of inflated to compressed size, by its documentation

# zlib selects the format by these window sizes.
_GZIP, _ZLIB, _RAW = 31, 15, -15


def encoding_of(value: str) -> str:
    """Return the normalised name in a `Content-Encoding` header.

    Raises:
        EncodingError: the encoding is not supported.
    """
    name = value.strip().lower()
    if name not in ACCEPTED:
        raise EncodingError(f"Content-Encoding: expected {', '.join(ACCEPTED)}, got {short(value)}")
    return name


def largest_inflated(encoding: str, size: int, limit: int) -> int:
    """Return how many bytes `inflate` may allocate for a body of `size` bytes."""
    return 0 if encoding == "identity" else min(size * LARGEST_RATIO, limit)


def inflate(encoding: str, body: bytes | bytearray, limit: int) -> bytes | bytearray:
    """Return the content of a body; at most `limit` + 1 bytes are ever inflated.

    Deflate is zlib's format, as HTTP defines it, or raw deflate, which some clients send.

    Raises:
        EncodingError: the encoding is not supported.
        BodyTooLargeError: the content is larger than `limit`.
        RequestError: the body is truncated or damaged, or has bytes after the stream's end.
    """
    name = encoding_of(encoding)
    if name == "identity":
        return body
    window = _GZIP if name == "gzip" else _ZLIB if _has_zlib_header(body) else _RAW
    stream = zlib.decompressobj(window)
    try:
        content = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise RequestError(f"the body is not {name}: {error}") from None
    if len(content) > limit:
        raise BodyTooLargeError(f"the inflated body is too large: expected at most {limit} bytes")
    if not stream.eof:
        raise RequestError(f"the body ends before its {name} stream does")
    if stream.unused_data:
        raise RequestError(
            f"expected one {name} stream, got {len(stream.unused_data)} bytes after its end"
        )
    return content


def deflate(encoding: bytes, content: bytes) -> bytes:
    """Return the content compressed as `gzip` or `deflate`, at zlib's fastest level."""
    stream = zlib.compressobj(1, wbits=_GZIP if encoding == b"gzip" else _ZLIB)
    return stream.compress(content) + stream.flush()


def _has_zlib_header(body: bytes | bytearray) -> bool:
    """Return whether a body begins with zlib's header, which raw deflate never does in practice."""
    return len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0

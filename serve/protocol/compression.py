"""Compressed bodies: `Content-Encoding` gzip and deflate, in with a cap on their size, and out.

Sources: RFC 1950 (zlib), RFC 1951 (raw deflate), RFC 1952 (gzip), RFC 9110 section 8.4.
"""

from __future__ import annotations

import zlib

from torchship.serve.errors import BodyTooLargeError, EncodingError, RequestError
from torchship.serve.protocol.tensors import short

ACCEPTED = ("gzip", "deflate", "identity")

# The values of `Accept-Encoding` that are answered so. The lists that many clients send of
# themselves are answered uncompressed, which is always allowed: most models are faster than zlib.
OFFERED = frozenset({b"gzip", b"deflate"})

LARGEST_RATIO = 1032  # to which zlib can inflate at most, as its documentation says

# The window sizes by which zlib tells the formats apart.
_GZIP, _ZLIB, _RAW = 31, 15, -15


def encoding_of(value: str) -> str:
    """Return the encoding that a `Content-Encoding` names.

    Raises:
        EncodingError: it is not accepted.
    """
    name = value.strip().lower()
    if name not in ACCEPTED:
        raise EncodingError(f"Content-Encoding: expected {', '.join(ACCEPTED)}, got {short(value)}")
    return name


def largest_inflated(encoding: str, size: int, limit: int) -> int:
    """Return how many bytes `inflate` may give besides the `size` bytes that it is given."""
    return 0 if encoding == "identity" else min(size * LARGEST_RATIO, limit)


def inflate(encoding: str, body: bytes | bytearray, limit: int) -> bytes | bytearray:
    """Return the content of a body; no more than `limit` bytes and one are ever inflated.

    Deflate is zlib's format, as HTTP says, or raw deflate, as some send it.

    Raises:
        EncodingError: an encoding that is not accepted.
        BodyTooLargeError: there is more than `limit`.
        RequestError: the body is cut short, is damaged, or goes on after its end.
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
    """Return the content compressed as `gzip` or `deflate`, quickly rather than tightly."""
    stream = zlib.compressobj(1, wbits=_GZIP if encoding == b"gzip" else _ZLIB)
    return stream.compress(content) + stream.flush()


def _has_zlib_header(body: bytes | bytearray) -> bool:
    """Whether the first two bytes are zlib's; no compressor begins raw deflate with them."""
    return len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0

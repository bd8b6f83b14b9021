import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchship.serve.errors import BodyTooLargeError, EncodingError, RequestError
from torchship.serve.protocol.compression import deflate, inflate

Deflate = Callable[[bytes], bytes]


def raw(content: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(content) + stream.flush()


FORMATS: list[tuple[str, Deflate]] = [
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw),
]


@given(st.sampled_from(FORMATS), st.binary(max_size=2000), st.integers(0, 2000))
def test_a_body_comes_back_up_to_the_limit(
    form: tuple[str, Deflate], content: bytes, limit: int
) -> None:
    name, compress = form
    if len(content) > limit:
        with pytest.raises(BodyTooLargeError, match=f"expected at most {limit} bytes"):
            inflate(name, compress(content), limit)
    else:
        assert inflate(name, compress(content), limit) == content


@given(st.sampled_from(FORMATS), st.binary(max_size=500), st.data())
def test_a_truncated_body_is_refused(
    form: tuple[str, Deflate], content: bytes, data: st.DataObject
) -> None:
    name, compress = form
    body = compress(content)
    cut = body[: data.draw(st.integers(0, len(body) - 1))]
    with pytest.raises(RequestError):
        inflate(name, cut, 1000)


@given(st.sampled_from(FORMATS), st.binary(max_size=500), st.binary(min_size=1, max_size=20))
def test_what_follows_the_end_is_refused(
    form: tuple[str, Deflate], content: bytes, more: bytes
) -> None:
    name, compress = form
    with pytest.raises(RequestError, match=f"one {name} stream, got {len(more)} bytes after"):
        inflate(name, compress(content) + more, 1000)


@given(st.sampled_from(FORMATS[:2]), st.binary(max_size=500), st.data())
def test_a_damaged_body_is_refused_or_the_same(
    form: tuple[str, Deflate], content: bytes, data: st.DataObject
) -> None:
    name, compress = form
    body = bytearray(compress(content))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(RequestError, BodyTooLargeError):  # the header of gzip has bytes of no account
        assert inflate(name, bytes(body), 1000) == content


@given(st.sampled_from(["gzip", "deflate"]), st.binary(max_size=50))
def test_any_body_is_read_or_refused(name: str, body: bytes) -> None:
    with suppress(RequestError, BodyTooLargeError):
        assert len(inflate(name, body, 1000)) <= 1000


def test_the_name_is_read_according_to_http() -> None:
    assert inflate(" GZip ", gzip.compress(b"x"), 1) == b"x"
    assert inflate("identity", b"x", 1) == b"x"
    with pytest.raises(EncodingError, match="expected gzip, deflate, identity, got 'br'"):
        inflate("br", b"x", 1)


@pytest.mark.parametrize(("name", "compress"), FORMATS, ids=["gzip", "zlib", "raw"])
def test_a_bomb_is_not_inflated(name: str, compress: Deflate) -> None:
    bomb = compress(bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(BodyTooLargeError):
        inflate(name, bomb, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@given(st.binary(max_size=2000))
def test_a_compressed_answer_is_what_the_standard_library_reads(content: bytes) -> None:
    assert gzip.decompress(deflate(b"gzip", content)) == content
    assert zlib.decompress(deflate(b"deflate", content)) == content

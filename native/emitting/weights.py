"""The weights of the generated C: a struct of arrays, inside the code or in a file beside it.

A file of weights is little-endian: a header of 128 bytes, then the struct, each array aligned to 64
bytes. The header has the magic `TSWEIGHT`, the version of the format and its own size as uint32,
the archive's digest (32 bytes), the size of the struct as uint64, its SHA-256 (32 bytes), zeros.
"""

from __future__ import annotations

import hashlib
import struct

from torchship.native.emitting import kernel_sources
from torchship.native.emitting.numbers import array_lines
from torchship.native.emitting.places import c_type
from torchship.native.emitting.unit import Unit
from torchship.native.emitting.writer import Writer, comment_text, string_literal
from torchship.native.ir.dtypes import ITEM_SIZES
from torchship.native.ir.program import Storage

MAGIC = b"TSWEIGHT"
VERSION = 1
HEADER = 128
ALIGNMENT = 64


def padded(storage: Storage) -> int:
    """Return how many elements an array of the struct has, so that the next one is aligned."""
    step = ALIGNMENT // ITEM_SIZES[storage.dtype]
    return -(-int(storage.count) // step) * step


def file_contents(unit: Unit) -> bytes:
    """Return the file of weights, which the code of `weights_apart` takes."""
    arrays = _arrays(unit)
    header = MAGIC + struct.pack("<II", VERSION, HEADER) + bytes.fromhex(unit.digest)
    header += struct.pack("<Q", len(arrays)) + hashlib.sha256(arrays).digest()
    return header.ljust(HEADER, b"\0") + arrays


def _arrays(unit: Unit) -> bytes:
    """Return the struct as it lies in memory; without weights, its only byte."""
    parts = []
    for storage in unit.weights:
        assert storage.value is not None
        values = storage.value.numpy()
        data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        parts.append(data.ljust(padded(storage) * ITEM_SIZES[storage.dtype], b"\0"))
    return b"".join(parts) or b"\0"


def declare(out: Writer, unit: Unit) -> None:
    """Write the struct, and the function that leads to the weights."""
    p = unit.prefix
    out.line("/* The weights, in the order in which the kernels read them. */")
    with out.block(f"typedef struct {p}_weights"):
        for storage in unit.weights:
            out.line(f"{c_type(storage.dtype)} {storage.name}[{padded(storage)}];")
        if not unit.weights:
            out.line("char none;")
    out.lines[-1] += f" {p}_weights;"
    out.line()
    if not unit.weights_apart:
        out.line("/* The weights of the archive. */")
        out.line(f"const {p}_weights *{p}_embedded_weights(void);")
        return
    out.line(
        f"/* Returns the weights inside the contents of {p}.bin, which must be aligned to 64 bytes "
        "(mapped memory is) and stay where they are; nothing is copied. NULL if they are not those "
        "of this code: the message, which may be NULL, says what came and what was expected. */"
    )
    out.line(f"{_head(p)};")


def emit(out: Writer, unit: Unit) -> None:
    """Write the weights, or the function that checks a file of them."""
    if unit.weights_apart:
        _check(out, unit)
    else:
        _table(out, unit)


def _table(out: Writer, unit: Unit) -> None:
    p = unit.prefix
    out.line(f"static const TS_ALIGNED {p}_weights {p}_archive_weights = {{")
    for storage in unit.weights:
        assert storage.value is not None
        out.line(f"    /* {comment_text(storage.wish or storage.name)} */")
        first, *rest = array_lines(storage.value, storage.dtype)
        out.lines += [f"    {{{first}", *(f"        {line}" for line in rest)]
        out.lines[-1] += "},"
    if not unit.weights:
        out.line("    0,")
    out.line("};")
    with out.block(f"const {p}_weights *{p}_embedded_weights(void)"):
        out.line(f"return &{p}_archive_weights;")


def _head(p: str) -> str:
    return (
        f"const {p}_weights *{p}_weights_from(const void *bytes, size_t size, char *message, "
        "int64_t message_size)"
    )


def _check(out: Writer, unit: Unit) -> None:
    p, contents = unit.prefix, file_contents(unit)
    wanted = hashlib.sha256(contents[HEADER:]).hexdigest()[:16]
    out.line(kernel_sources.source("sha256").rstrip())
    out.line(f"/* What {p}.bin begins with. */")
    out.line(f"static const unsigned char {p}_weights_header[{HEADER}] = {{")
    for at in range(0, HEADER, 16):
        codes = ", ".join(map(str, contents[at : at + 16]))
        out.line(f"    {codes}" + ("," if at + 16 < HEADER else "};"))
    with out.block(_head(p)):
        out.line("const unsigned char *const file = (const unsigned char *)bytes;")
        out.line(f"const unsigned char *const header = {p}_weights_header;")
        out.line("const uint32_t one = 1;")
        out.line("unsigned char digest[32];")
        out.line("ts_message text = {message, message_size, 0};")
        out.line('ts_say(&text, "");')
        _refuse(out, "!bytes", "expected the contents of a file, got NULL")
        _refuse(
            out,
            "*(const unsigned char *)&one != 1",
            "the file is little-endian, and this machine is not",
        )
        _refuse(
            out,
            f"size < {HEADER} || memcmp(file, header, 8) != 0",
            f"expected the contents of {p}.bin, which begin with TSWEIGHT, got others",
        )
        _refuse(
            out,
            "memcmp(file + 8, header + 8, 8) != 0",
            f"expected version {VERSION} of the format, got version ",
            "ts_say_integer(&text, file[8]);",
        )
        _refuse(
            out,
            "memcmp(file + 16, header + 16, 32) != 0",
            f"of another archive: expected the digest {unit.digest[:16]}..., got ",
            "ts_say_digest(&text, file + 16);",
        )
        _refuse(
            out,
            f"size != {len(contents)}",
            f"expected {len(contents)} bytes, got ",
            "ts_say_integer(&text, (int64_t)size);",
        )
        out.line(f"ts_sha256(file + {HEADER}, size - {HEADER}, digest);")
        _refuse(
            out,
            "memcmp(digest, header + 56, 32) != 0",
            f"changed, or written by another version: expected the SHA-256 {wanted}..., got ",
            "ts_say_digest(&text, digest);",
        )
        _refuse(
            out,
            f"(uintptr_t)bytes % {ALIGNMENT}",
            f"expected an address that is a multiple of {ALIGNMENT}, got one and ",
            f"ts_say_integer(&text, (int64_t)((uintptr_t)bytes % {ALIGNMENT}));",
        )
        out.line(f"return (const {p}_weights *)(const void *)(file + {HEADER});")


def _refuse(out: Writer, condition: str, text: str, got: str = "") -> None:
    with out.block(f"if ({condition})"):
        out.line(f"ts_say(&text, {string_literal(f'weights: {text}')});")
        if got:
            out.line(got)
        out.line("return NULL;")

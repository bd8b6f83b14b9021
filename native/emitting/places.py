"""How views are addressed in C: the pointer of their storage, and an offset."""

from __future__ import annotations

from torchship.native.ir import sizes
from torchship.native.ir.dtypes import C_TYPES
from torchship.native.ir.program import Storage, View
from torchship.native.ir.sizes import Size


def base(storage: Storage) -> str:
    """Return the C expression of a storage's first element."""
    return f"w->{storage.name}" if storage.kind == "weight" else storage.name


def address(view: View, extra: Size = 0) -> str:
    """Return the C expression of the address of a view's first element, plus an offset."""
    offset = sizes.simple(view.offset + extra)
    start = base(view.storage)
    return start if offset == 0 else f"{start} + {sizes.c_text(offset)}"


def c_type(dtype: str) -> str:
    """Return the C type of a dtype's elements."""
    return C_TYPES[dtype]

"""Tensor data on the wire: one tensor's bytes or JSON values, in and out.

Source: Open Inference Protocol V2 ("Tensor Data", "Tensor Data Types") and Triton's binary tensor
data extension. Byte order is little-endian on the wire, and this module assumes the same of the
host, as LibTorch's own builds do.
"""

from __future__ import annotations

import math
import reprlib
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from torchship.script.dtypes import BY_TORCH, BY_WIRE, Dtype
from torchship.serve.errors import RequestError

BYTES = "BYTES"
DATATYPES = (*BY_WIRE, BYTES)
WITHOUT_JSON = ("FP16", "BF16")

# The type codes of `array` have these sizes wherever LibTorch runs.
_CODES = {
    torch.int8: "b", torch.uint8: "B", torch.int16: "h", torch.uint16: "H",
    torch.int32: "i", torch.uint32: "I", torch.int64: "q", torch.uint64: "Q",
}  # fmt: skip

_NUMPY = {d.torch: np.dtype(d.name) for d in BY_WIRE.values() if d.wire not in WITHOUT_JSON}

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 40

MAX_RANK = 32  # of numpy 1
# A tensor with elements is bounded by the body that brings them; an empty one could announce
# any size in its other dimensions, and the model might allocate it.
MAX_EMPTY = 1 << 20


@dataclass(frozen=True)
class Strings:
    """A BYTES tensor: its shape and its elements in row-major order."""

    shape: tuple[int, ...]
    items: list[bytes]


Bytes = bytes | bytearray | memoryview


@dataclass(slots=True)  # not frozen, which would take longer to make than all the rest
class Packed:
    """A tensor's elements in row-major order as bytes: cheaper to cut and join than tensors."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    data: Bytes

    @property
    def nbytes(self) -> int:
        """The size of the data."""
        return len(self.data)

    def tensor(self) -> torch.Tensor:
        """Return the tensor; it is a copy unless the data is a bytearray."""
        if not self.data:
            return torch.empty(self.shape, dtype=self.dtype)
        data = self.data if isinstance(self.data, bytearray) else bytearray(self.data)
        return torch.frombuffer(data, dtype=self.dtype).view(self.shape)


def pack(tensor: torch.Tensor) -> Packed:
    """Return a copy of a tensor of the CPU."""
    dtype, shape = tensor.dtype, tuple(tensor.shape)
    if dtype is torch.bfloat16:  # which numpy does not know
        tensor = tensor.contiguous().reshape(-1).view(torch.uint8)
    return Packed(dtype, shape, tensor.numpy().tobytes())


def join_packed(parts: Sequence[Packed]) -> torch.Tensor:
    """Return the rows of all, along the first dimension, in memory that the allocator aligned."""
    first = parts[0]
    data = first.data if len(parts) == 1 else b"".join([part.data for part in parts])
    shape = first.shape
    if len(parts) > 1:
        shape = (sum(part.shape[0] for part in parts), *shape[1:])
    if not data:
        return torch.empty(shape, dtype=first.dtype)
    whole = torch.empty(len(data), dtype=torch.uint8)
    whole.numpy()[:] = np.frombuffer(data, np.uint8)
    return whole.view(first.dtype).view(shape)


def split_packed(whole: Packed, rows: Sequence[int]) -> list[Packed]:
    """Return parts of so many rows each, along the first dimension; they share its memory."""
    step = len(whole.data) // max(whole.shape[0], 1)
    data = memoryview(whole.data)
    parts = []
    start = 0
    for count in rows:
        end = start + count
        shape = (count, *whole.shape[1:])
        parts.append(Packed(whole.dtype, shape, data[start * step : end * step]))
        start = end
    return parts


Value = torch.Tensor | Strings
Wire = Value | Packed


def datatype_of(value: Wire) -> str:
    """Return a value's datatype in the protocol's words, such as `FP32`."""
    return BYTES if isinstance(value, Strings) else BY_TORCH[value.dtype].wire


def check_datatype(what: str, datatype: object) -> str:
    """Return `datatype` if the protocol knows it; `what` is named in the error.

    Raises:
        RequestError: it does not.
    """
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise RequestError(
            f"{what}: expected a datatype out of {', '.join(DATATYPES)}, got {short(datatype)}"
        )
    return datatype


def check_shape(what: str, shape: object) -> tuple[int, ...]:
    """Return `shape` as a tuple of sizes.

    Raises:
        RequestError: it is no list of sizes, has too many dimensions, or is absurdly large.
    """
    if not isinstance(shape, list) or any(type(size) is not int or size < 0 for size in shape):
        raise RequestError(
            f"{what}: expected a shape, a list of sizes from 0 on, got {short(shape)}"
        )
    if len(shape) > MAX_RANK:
        raise RequestError(f"{what}: expected at most {MAX_RANK} dimensions, got {len(shape)}")
    if 0 in shape and math.prod(size for size in shape if size) > MAX_EMPTY:
        raise RequestError(
            f"{what}: the shape {short(shape)} is too large for a tensor without elements"
        )
    return tuple(shape)


def unpacked(value: Packed | Strings) -> Value:
    """Return a value as tensor, if it is one."""
    return value.tensor() if isinstance(value, Packed) else value


def from_binary(
    what: str, datatype: str, shape: tuple[int, ...], data: memoryview
) -> Packed | Strings:
    """Read one tensor's raw bytes: row-major elements, BYTES each after its 4-byte length.

    The data is not copied.

    Raises:
        RequestError: the bytes are not what datatype and shape need.
    """
    if datatype == BYTES:
        return Strings(shape, _split_strings(what, shape, data))
    dtype = BY_WIRE[datatype]
    expected = math.prod(shape) * dtype.size
    if len(data) != expected:
        raise RequestError(
            f"{what}: expected {expected} bytes for {_kind(datatype, shape)}, got {len(data)}"
        )
    if expected and dtype.torch is torch.bool and max(data) > 1:
        raise RequestError(f"{what}: expected BOOL bytes of 0 or 1, got {max(data)}")
    return Packed(dtype.torch, shape, data)


def _split_strings(what: str, shape: tuple[int, ...], data: memoryview) -> list[bytes]:
    count = math.prod(shape)
    items: list[bytes] = []
    place = 0
    while place < len(data) and len(items) < count:
        if len(data) - place < 4:
            break
        (length,) = struct.unpack_from("<I", data, place)
        if length > len(data) - place - 4:
            raise RequestError(
                f"{what}: element {len(items)} announces {length} bytes, "
                f"and {len(data) - place - 4} are left"
            )
        items.append(bytes(data[place + 4 : place + 4 + length]))
        place += 4 + length
    if len(items) != count or place != len(data):
        raise RequestError(
            f"{what}: expected {count} elements for {_kind(BYTES, shape)}, "
            f"got {len(items)} and {len(data) - place} more bytes"
        )
    return items


def from_json(
    what: str, datatype: str, shape: tuple[int, ...], data: object, *, bools: bool = True
) -> Packed | Strings:
    """Read one tensor's JSON `data`: a list in row-major order, nested as the shape is, or flat.

    `bools` is False when the text is known to have none: they need not be looked for then.

    Raises:
        RequestError: FP16 and BF16, which have no JSON form; values of another kind or outside
            the datatype's range; another number of them, or another nesting.
    """
    if datatype in WITHOUT_JSON:
        raise RequestError(f"{what}: {datatype} has no JSON form, send it as binary data")
    values = _flat_values(what, datatype, shape, data)
    if datatype == BYTES:
        _check_types(what, datatype, values, {str})
        return Strings(shape, [str(value).encode() for value in values])
    dtype = BY_WIRE[datatype]
    data = _numbers(what, dtype, values, bools) if values else b""
    return Packed(dtype.torch, shape, data)


def _flat_values(what: str, datatype: str, shape: tuple[int, ...], data: object) -> list[object]:
    if not isinstance(data, list):
        raise RequestError(f"{what}: expected data to be a list, got {type(data).__name__}")
    values: list[object] = data
    if len(shape) > 1 and values and isinstance(values[0], list):
        if len(values) != shape[0]:
            raise RequestError(f"{what}: expected {shape[0]} rows of data, got {len(values)}")
        for size in shape[1:]:
            for row in values:
                if not isinstance(row, list) or len(row) != size:
                    came = f"{len(row)} values" if isinstance(row, list) else "a single value"
                    raise RequestError(
                        f"{what}: expected data nested as {_kind(datatype, shape)}, "
                        f"got {came} for {size}"
                    )
            values = list(chain.from_iterable(values))  # type: ignore[arg-type]
    if len(values) != math.prod(shape):
        raise RequestError(
            f"{what}: expected {math.prod(shape)} values for {_kind(datatype, shape)}, "
            f"got {len(values)}"
        )
    return values


def _check_types(what: str, datatype: str, values: Sequence[object], allowed: set[type]) -> None:
    found = set(map(type, values)) - allowed
    if found:
        wrong = next(value for value in values if type(value) in found)
        raise RequestError(f"{what}: expected {datatype} values, got {short(wrong)}")


def _numbers(what: str, dtype: Dtype, values: list[object], bools: bool) -> Bytes:
    """Return the values one after another; `array` is quick, and refuses all but numbers."""
    if dtype.torch is torch.bool:
        _check_types(what, dtype.wire, values, {bool})
        return bytearray(values)  # type: ignore[arg-type]
    allowed: set[type] = {int, float} if dtype.is_float else {int}
    if bools:
        _check_types(what, dtype.wire, values, allowed)
    try:
        if dtype.torch is torch.uint8:
            return bytearray(cast("list[int]", values))  # several times as quick as `array`
        if not dtype.is_float:
            whole = array(_CODES[dtype.torch], cast("list[int]", values))
            return memoryview(whole).cast("B")
        wide = array("d", cast("list[float]", values))
        if dtype.torch is torch.float64:
            return memoryview(wide).cast("B")
        return _narrow(what, np.frombuffer(wide)).data.cast("B")
    except TypeError:
        _check_types(what, dtype.wire, values, allowed)
        raise
    except (OverflowError, ValueError):
        _check_types(what, dtype.wire, values, allowed)
        limits = torch.iinfo(dtype.torch)
        smallest, largest = min(values), max(values)  # type: ignore[type-var]
        extreme = smallest if smallest < limits.min else largest  # type: ignore[operator]
        raise RequestError(
            f"{what}: expected {dtype.wire} values from {limits.min} to {limits.max}, got {extreme}"
        ) from None


def _narrow(what: str, wide: NDArray[np.float64]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    if not np.isfinite(narrow).all():
        wrong = float(wide[~np.isfinite(narrow)][0])
        largest = float(np.finfo(np.float32).max)
        raise RequestError(f"{what}: expected FP32 values up to {largest!r}, got {wrong!r}")
    return narrow


def to_binary(value: Wire) -> Bytes:
    """Return a value's raw bytes."""
    if isinstance(value, Packed):
        return value.data
    if isinstance(value, Strings):
        return b"".join(struct.pack("<I", len(item)) + item for item in value.items)
    return pack(value).data


def to_json(what: str, value: Wire) -> object:
    """Return a value's flat `data` for `orjson` with numpy; FP32 is widened to double, exactly.

    Raises:
        RequestError: JSON cannot carry it: FP16, BF16, NaN, an infinity, bytes that are no text.
    """
    if isinstance(value, Strings):
        try:
            return [item.decode() for item in value.items]
        except UnicodeDecodeError:
            raise RequestError(f"{what}: JSON carries UTF-8 text only, use binary data") from None
    datatype = datatype_of(value)
    if datatype in WITHOUT_JSON:
        raise RequestError(f"{what}: {datatype} has no JSON form, ask for it with binary_data")
    if isinstance(value, Packed):
        flat = np.frombuffer(value.data, _NUMPY[value.dtype])
    else:
        flat = value.numpy().reshape(-1)
    if value.dtype.is_floating_point:
        if not np.isfinite(flat).all():
            count = int((~np.isfinite(flat)).sum())
            raise RequestError(
                f"{what}: {count} of {flat.size} values are not finite, which JSON cannot carry: "
                "ask for it with binary_data"
            )
        return flat.astype(np.float64, copy=False)
    return flat


def _kind(datatype: str, shape: Sequence[int]) -> str:
    return f"{datatype}[{','.join(map(str, shape))}]"


def short(value: object) -> str:
    """Return a value as an error message shows it: what came may be very long."""
    return _SHORT.repr(value)

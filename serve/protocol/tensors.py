"""Encodes and decodes the data of one tensor, as bytes or as JSON values.

Source: Open Inference Protocol V2 ("Tensor Data", "Tensor Data Types") and Triton's binary tensor
data extension. Byte order is little-endian on the wire, and this module assumes the same of the
host, as LibTorch's own builds do.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from torchship.script.format.dtypes import BY_TORCH, BY_WIRE
from torchship.script.format.plain_tensors import plain
from torchship.serve.errors import RequestError, TensorTooLargeError
from torchship.serve.protocol.json_values import BYTES as BYTES
from torchship.serve.protocol.json_values import WITHOUT_JSON as WITHOUT_JSON
from torchship.serve.protocol.json_values import Bytes as Bytes
from torchship.serve.protocol.json_values import (
    NonFinite,
    ValuesError,
    kind,
    read_values,
    write_values,
)
from torchship.serve.protocol.json_values import short as short

DATATYPES = (*BY_WIRE, BYTES)

MAX_RANK = 32  # of numpy 1
# The body's size limits a tensor that has elements. An empty tensor could declare any size in its
# other dimensions, and the model might allocate that much.
MAX_EMPTY = 1 << 20
# Strings are read one by one; a model needs one per text argument, so few are enough.
MAX_STRINGS = 1 << 16


@dataclass(frozen=True)
class Strings:
    """A BYTES tensor: its shape and its elements in row-major order."""

    shape: tuple[int, ...]
    items: list[bytes]


@dataclass(slots=True)  # creating a frozen one takes several times as long
class RawTensor:
    """A tensor's elements in row-major order as bytes, which are cheaper to cut and join."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    data: Bytes

    @property
    def nbytes(self) -> int:
        """The size of the data."""
        return len(self.data)

    def tensor(self) -> torch.Tensor:
        """Return the tensor; a copy, unless the data is a bytearray."""
        if not self.data:
            return torch.empty(self.shape, dtype=self.dtype)
        data = self.data if isinstance(self.data, bytearray) else bytearray(self.data)
        return torch.frombuffer(data, dtype=self.dtype).view(self.shape)


def pack(tensor: torch.Tensor) -> RawTensor:
    """Return a copy of a CPU tensor as a raw tensor."""
    dtype, shape = tensor.dtype, tuple(tensor.shape)
    try:
        if dtype is torch.bfloat16:  # numpy has no such dtype
            elements = tensor.contiguous().reshape(-1).view(torch.uint8)
            return RawTensor(dtype, shape, elements.numpy().tobytes())
        return RawTensor(dtype, shape, tensor.numpy().tobytes())
    except RuntimeError:  # numpy refuses gradients, and lazy negation and conjugation
        settled = plain(tensor)
        if settled is tensor:
            raise
        return pack(settled)


def pack_all(tensors: Mapping[str, torch.Tensor]) -> dict[str, RawTensor]:
    """Return copies of CPU tensors as raw tensors, by name."""
    return {name: pack(tensor) for name, tensor in tensors.items()}


def concatenate(parts: Sequence[RawTensor]) -> RawTensor:
    """Concatenate along the first dimension; a single part is returned as it is."""
    first = parts[0]
    if len(parts) == 1:
        return first
    shape = (sum([part.shape[0] for part in parts]), *first.shape[1:])
    return RawTensor(first.dtype, shape, b"".join([part.data for part in parts]))


def aligned_tensor(raw: RawTensor) -> torch.Tensor:
    """Return a copy as a tensor, in memory with the allocator's alignment."""
    if not raw.data:
        return torch.empty(raw.shape, dtype=raw.dtype)
    whole = torch.empty(len(raw.data), dtype=torch.uint8)
    whole.numpy()[:] = np.frombuffer(raw.data, np.uint8)
    return whole.view(raw.dtype).view(raw.shape)


def split_packed(whole: RawTensor, rows: Sequence[int]) -> list[RawTensor]:
    """Split along the first dimension into parts of `rows` rows each, which share the memory."""
    step = len(whole.data) // max(whole.shape[0], 1)
    data = memoryview(whole.data)
    parts = []
    start = 0
    for count in rows:
        end = start + count
        shape = (count, *whole.shape[1:])
        parts.append(RawTensor(whole.dtype, shape, data[start * step : end * step]))
        start = end
    return parts


Value = torch.Tensor | Strings
Wire = Value | RawTensor


def datatype_of(value: Wire) -> str:
    """Return a value's datatype as the protocol names it, such as `FP32`."""
    return BYTES if isinstance(value, Strings) else BY_TORCH[value.dtype].wire


def check_datatype(what: str, datatype: object) -> str:
    """Return `datatype` if the protocol has it; `what` names the tensor in the error.

    Raises:
        RequestError: the protocol has no such datatype.
    """
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise RequestError(
            f"{what}: expected a datatype out of {', '.join(DATATYPES)}, got {short(datatype)}"
        )
    return datatype


def check_shape(what: str, shape: object) -> tuple[int, ...]:
    """Return `shape` as a tuple of sizes.

    Raises:
        RequestError: it is not a list of sizes, has too many dimensions, or is absurdly large.
    """
    if not isinstance(shape, list) or not {*map(type, shape)} <= {int} or min(shape, default=0) < 0:
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


def check_sizes(inputs: Mapping[str, Wire], limit: int) -> None:
    """Refuse a request with an input of more than `limit` bytes.

    Raises:
        TensorTooLargeError: naming the input, its size and the limit.
    """
    for name, value in inputs.items():
        size = sum(map(len, value.items)) if isinstance(value, Strings) else value.nbytes
        if size > limit:
            raise TensorTooLargeError(f"input '{name}': expected at most {limit} bytes, got {size}")


def unpacked(value: RawTensor | Strings) -> Value:
    """Return a raw tensor as a tensor, and strings as they are."""
    return value.tensor() if isinstance(value, RawTensor) else value


def from_binary(
    what: str, datatype: str, shape: tuple[int, ...], data: memoryview
) -> RawTensor | Strings:
    """Read one tensor's raw bytes: row-major elements; each of BYTES follows its 4-byte length.

    The data is not copied.

    Raises:
        RequestError: the bytes do not fit datatype and shape.
    """
    if datatype == BYTES:
        return Strings(shape, _split_strings(what, shape, data))
    dtype = BY_WIRE[datatype]
    expected = math.prod(shape) * dtype.size
    if len(data) != expected:
        raise RequestError(
            f"{what}: expected {expected} bytes for {kind(datatype, shape)}, got {len(data)}"
        )
    if dtype.torch is torch.bool and (wrong := bytes(data).translate(None, b"\0\1")):
        raise RequestError(f"{what}: expected BOOL bytes of 0 or 1, got {wrong[0]}")
    return RawTensor(dtype.torch, shape, data)


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
            f"{what}: expected {count} elements for {kind(BYTES, shape)}, "
            f"got {len(items)} and {len(data) - place} more bytes"
        )
    return items


def from_json(
    what: str, datatype: str, shape: tuple[int, ...], data: object, *, bools: bool = True
) -> RawTensor | Strings:
    """Read one tensor's JSON `data`: a list in row-major order, nested as the shape is, or flat.

    Pass `bools=False` if the JSON text is known to contain no `true` or `false`. Values that a
    helper process has read already are a memoryview of the tensor's raw bytes.

    Raises:
        RequestError: FP16 and BF16, which have no JSON form; values of another kind or outside
            the datatype's range; another number of them, or another nesting.
    """
    if type(data) is memoryview:
        return from_binary(what, datatype, shape, data)
    try:
        found = read_values(what, datatype, shape, data, bools=bools)
    except ValuesError as error:
        raise RequestError(str(error)) from None
    if isinstance(found, list):
        return Strings(shape, found)
    return RawTensor(BY_WIRE[datatype].torch, shape, found)


def to_binary(value: Wire) -> Bytes:
    """Return a value's raw bytes."""
    if isinstance(value, RawTensor):
        return value.data
    if isinstance(value, Strings):
        return b"".join(struct.pack("<I", len(item)) + item for item in value.items)
    return pack(value).data


def to_json(what: str, value: Wire, non_finite: NonFinite = "error") -> object:
    """Return a value's flat `data` for `orjson` with numpy; FP32 is widened exactly to double.

    `non_finite` is how values that are not finite are encoded.

    Raises:
        RequestError: JSON cannot carry it: FP16, BF16, NaN, an infinity, bytes that are not UTF-8.
    """
    if isinstance(value, Strings):
        try:
            return [item.decode() for item in value.items]
        except UnicodeDecodeError:
            raise RequestError(f"{what}: JSON carries UTF-8 text only, use binary data") from None
    try:
        return write_values(what, datatype_of(value), to_binary(value), non_finite)
    except ValuesError as error:
        raise RequestError(str(error)) from None

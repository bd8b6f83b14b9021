"""Typed tensor contents to bytes and back.

Protobuf writes a repeated number of fixed size as the bytes of an array, so floats and bools are
cut out of the encoded message; only integers, which have no fixed size there, are read one by one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from torchship.serve.errors import RequestError
from torchship.serve.grpc import inference_pb2 as pb
from torchship.serve.protocol.json_values import NUMPY, kind
from torchship.serve.protocol.tensors import (
    BYTES,
    WITHOUT_JSON,
    RawTensor,
    Strings,
    Wire,
    datatype_of,
    from_binary,
    to_binary,
)

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}  # fmt: skip
"""The field of each datatype that has a typed form."""

FIXED = {"BOOL": 1, "FP32": 4, "FP64": 8}
"""Bytes of an element in the encoded message, where that is fixed and is the tensor's own form."""

LENGTH_DELIMITED = 2  # a wire type of protobuf
SLICE = 1 << 14  # integers that are read at once, while no other thread runs


def read_contents(
    what: str, datatype: str, shape: tuple[int, ...], contents: pb.InferTensorContents
) -> RawTensor | Strings:
    """Return the tensor that typed contents hold.

    Raises:
        RequestError: the datatype has no typed form; the contents are in another field, of another
            number, or outside the datatype's range.
    """
    if datatype in WITHOUT_JSON:
        raise RequestError(f"{what}: {datatype} has no typed form, send it in raw_input_contents")
    field = FIELDS[datatype]
    others = [known.name for known, _ in contents.ListFields() if known.name != field]
    if others:
        raise RequestError(f"{what}: expected {datatype} values in {field}, got {others[0]}")
    values = getattr(contents, field)
    if len(values) != math.prod(shape):
        raise RequestError(
            f"{what}: expected {math.prod(shape)} values for {kind(datatype, shape)}, "
            f"got {len(values)}"
        )
    if datatype == BYTES:
        return Strings(shape, list(values))
    if datatype in FIXED:
        size = FIXED[datatype] * len(values)
        contents.DiscardUnknownFields()  # they would follow the values
        encoded = memoryview(contents.SerializeToString())
        return from_binary(what, datatype, shape, encoded[len(encoded) - size :])
    return from_binary(what, datatype, shape, memoryview(_integers(what, datatype, values)))


def _integers(what: str, datatype: str, values: Sequence[int]) -> bytes:
    wanted = np.dtype(NUMPY[datatype])
    wide = np.uint64 if wanted.kind == "u" else np.int64
    limits = np.iinfo(wanted)
    parts = []
    for start in range(0, len(values), SLICE):
        part = np.array(values[start : start + SLICE], wide)
        smallest, largest = int(part.min()), int(part.max())
        if smallest < limits.min or largest > limits.max:
            wrong = smallest if smallest < limits.min else largest
            raise RequestError(
                f"{what}: expected {datatype} values from {limits.min} to {limits.max}, got {wrong}"
            )
        parts.append(part.astype(wanted).tobytes())
    return b"".join(parts)


def write_contents(what: str, value: Wire, contents: pb.InferTensorContents) -> None:
    """Write a tensor's values into typed contents.

    Raises:
        RequestError: the datatype has no typed form.
    """
    datatype = datatype_of(value)
    if datatype in WITHOUT_JSON:
        raise RequestError(f"{what}: {datatype} has no typed form, ask for it without binary_data")
    field = contents.DESCRIPTOR.fields_by_name[FIELDS[datatype]]
    if isinstance(value, Strings):
        contents.bytes_contents.extend(value.items)
        return
    data = to_binary(value)
    if datatype in FIXED:
        head = _varint(field.number << 3 | LENGTH_DELIMITED) + _varint(len(data))
        contents.MergeFromString(head + bytes(data))
    else:
        getattr(contents, field.name).extend(np.frombuffer(data, NUMPY[datatype]).tolist())


def _varint(number: int) -> bytes:
    """Return a number as protobuf writes it: seven bits a byte, the lowest first."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)

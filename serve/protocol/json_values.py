"""Converts the JSON values of one tensor to bytes and back, without torch.

The helper process for large messages uses this module and must not have to import torch.
"""

from __future__ import annotations

import math
import reprlib
from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from torchship.serve.protocol.json_errors import for_a_number, not_json

BYTES = "BYTES"
WITHOUT_JSON = ("FP16", "BF16")

NUMPY = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP32": "float32", "FP64": "float64",
}  # fmt: skip
"""The datatypes with a numeric JSON form, and their numpy names."""

# The type codes of `array` and `memoryview` have these sizes wherever LibTorch runs.
_INTEGERS = {
    "INT8": "b", "UINT8": "B", "INT16": "h", "UINT16": "H",
    "INT32": "i", "UINT32": "I", "INT64": "q", "UINT64": "Q",
}  # fmt: skip
_CODES: dict[str, Any] = {**_INTEGERS, "BOOL": "?", "FP32": "f", "FP64": "d"}
FLOATS = ("FP32", "FP64")

FEW_BYTES = 1 << 8
"""Size of a tensor up to which a list of Python numbers is faster than numpy."""

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""The strings that stand for values that JSON numbers cannot express."""

NonFinite: TypeAlias = Literal["error", "string", "null"]
"""How such values are encoded in an answer."""

Bytes: TypeAlias = bytes | bytearray | memoryview

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 40


class ValuesError(ValueError):
    """Values that do not fit their datatype and shape, or that JSON cannot carry."""


def parse_object(text: Bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValuesError: the text is not JSON, or not an object.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValuesError(not_json(error)) from None
    if not isinstance(value, dict):
        raise ValuesError(f"expected a JSON object, got {type(value).__name__}")
    return value


def short(value: object) -> str:
    """Return a value shortened for an error message."""
    return _SHORT.repr(value)


def kind(datatype: str, shape: Sequence[int]) -> str:
    """Return a datatype and a shape for an error message, such as `FP32[2,3]`."""
    return f"{datatype}[{','.join(map(str, shape))}]"


def read_values(
    what: str, datatype: str, shape: tuple[int, ...], data: object, *, bools: bool = True
) -> Bytes | list[bytes]:
    """Read one tensor's JSON `data`: a list in row-major order, nested as the shape is, or flat.

    The elements of BYTES are returned as a list. Pass `bools=False` if the JSON text is known to
    contain no `true` or `false`: the values are then not searched for them.

    Raises:
        ValuesError: FP16 and BF16, which have no JSON form; values of another kind or outside
            the datatype's range; another number of them, or another nesting.
    """
    if datatype in WITHOUT_JSON:
        raise ValuesError(f"{what}: {datatype} has no JSON form, send it as binary data")
    values = _flat_values(what, datatype, shape, data)
    if datatype == BYTES:
        _check_types(what, datatype, values, {str})
        return [str(value).encode() for value in values]
    return _numbers(what, datatype, values, bools) if values else b""


def _flat_values(what: str, datatype: str, shape: tuple[int, ...], data: object) -> list[object]:
    if not isinstance(data, list):
        raise ValuesError(f"{what}: expected data to be a list, got {type(data).__name__}")
    values: list[object] = data
    if len(shape) > 1 and values and isinstance(values[0], list):
        if len(values) != shape[0]:
            raise ValuesError(f"{what}: expected {shape[0]} rows of data, got {len(values)}")
        for size in shape[1:]:
            for row in values:
                if not isinstance(row, list) or len(row) != size:
                    actual = f"{len(row)} values" if isinstance(row, list) else "a single value"
                    raise ValuesError(
                        f"{what}: expected data nested as {kind(datatype, shape)}, "
                        f"got {actual} for {size}"
                    )
            values = list(chain.from_iterable(values))  # type: ignore[arg-type]
    if len(values) != math.prod(shape):
        raise ValuesError(
            f"{what}: expected {math.prod(shape)} values for {kind(datatype, shape)}, "
            f"got {len(values)}"
        )
    return values


def _check_types(what: str, datatype: str, values: Sequence[object], allowed: set[type]) -> None:
    found = set(map(type, values)) - allowed
    if found:
        wrong = next(value for value in values if type(value) in found)
        actual = "null" if wrong is None else short(wrong)
        hint = for_a_number(wrong) if datatype in FLOATS else ""
        raise ValuesError(f"{what}: expected {datatype} values, got {actual}{hint}")


def _numbers(what: str, datatype: str, values: list[object], bools: bool) -> Bytes:
    """Return the values as consecutive bytes; `array` is fast and accepts only numbers."""
    if datatype == "BOOL":
        _check_types(what, datatype, values, {bool})
        return bytearray(values)  # type: ignore[arg-type]
    if datatype not in _INTEGERS:
        return _floats(what, datatype, values, bools)
    if bools:
        _check_types(what, datatype, values, {int})
    try:
        if datatype == "UINT8":
            return bytearray(cast("list[int]", values))  # several times as fast as `array`
        return memoryview(array(_INTEGERS[datatype], cast("list[int]", values))).cast("B")
    except TypeError:
        _check_types(what, datatype, values, {int})
        raise
    except (OverflowError, ValueError):
        _check_types(what, datatype, values, {int})
        limits = np.iinfo(NUMPY[datatype])
        smallest, largest = min(values), max(values)  # type: ignore[type-var]
        extreme = smallest if smallest < limits.min else largest  # type: ignore[operator]
        raise ValuesError(
            f"{what}: expected {datatype} values from {limits.min} to {limits.max}, got {extreme}"
        ) from None


def _floats(what: str, datatype: str, values: list[object], bools: bool) -> Bytes:
    named: NDArray[np.bool_] | None = None  # which values were strings such as "NaN"
    try:
        if bools:
            _check_types(what, datatype, values, {int, float})
        wide = array("d", cast("list[float]", values))
    except (TypeError, ValuesError):
        named = np.fromiter((type(v) is str and v in NON_FINITE for v in values), bool)
        values = [
            NON_FINITE[cast("str", value)] if name else value
            for value, name in zip(values, named, strict=True)
        ]
        _check_types(what, datatype, values, {int, float})
        wide = array("d", cast("list[float]", values))
    if datatype == "FP64":
        return memoryview(wide).cast("B")
    return _narrow(what, np.frombuffer(wide), named).data.cast("B")


def _narrow(
    what: str, wide: NDArray[np.float64], named: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    fits = np.isfinite(narrow)
    if named is not None:
        fits |= named
    if not fits.all():
        wrong = float(wide[~fits][0])
        largest = float(np.finfo(np.float32).max)
        raise ValuesError(f"{what}: expected FP32 values up to {largest!r}, got {wrong!r}")
    return narrow


def write_values(what: str, datatype: str, data: Bytes, non_finite: NonFinite) -> object:
    """Return the elements of a tensor in a form that `orjson` encodes; FP32 is widened exactly.

    Raises:
        ValuesError: FP16 and BF16, which have no JSON form; values that are not finite, if
            `non_finite` is "error".
    """
    if datatype in WITHOUT_JSON:
        raise ValuesError(f"{what}: {datatype} has no JSON form, ask for it with binary_data")
    if len(data) <= FEW_BYTES:
        few: Sequence[float] = memoryview(data).cast(_CODES[datatype]).tolist()
        # A sum is finite only if every summand is.
        if datatype not in FLOATS or math.isfinite(sum(few)):
            return few
    flat = np.frombuffer(data, NUMPY[datatype])
    if datatype not in FLOATS:
        return flat
    finite = np.isfinite(flat)
    if finite.all():
        return flat.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):  # signalling NaNs warn
        wide = flat.astype(np.float64, copy=False)
    if non_finite == "null":  # orjson writes them as null
        return wide
    if non_finite == "error":
        raise ValuesError(
            f"{what}: {int((~finite).sum())} of {flat.size} values are not finite, which JSON "
            "cannot carry: ask for it with binary_data, or for such values as the parameter "
            "non_finite says, 'string' or 'null'"
        )
    values: list[object] = wide.tolist()
    for place in np.flatnonzero(~finite).tolist():
        value = cast("float", values[place])
        values[place] = "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return values

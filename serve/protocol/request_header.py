"""Reads and checks the JSON of a message of the Open Inference Protocol V2, without tensor data.

Sources: the protocol's "Inference" section and Triton's extensions of binary tensor data,
classification, sequences and schedule policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, cast

import torch

from torchship.script.format.dtypes import BY_WIRE
from torchship.serve.errors import RequestError
from torchship.serve.protocol.json_values import NonFinite, ValuesError, parse_object
from torchship.serve.protocol.tensors import BYTES, MAX_STRINGS, check_datatype, check_shape, short

# Parameters that change the meaning of a request; ignoring one would give a wrong answer.
REFUSED = ("shared_memory_region",)

MAX_ID = 256  # characters of a sequence id

CACHED_HEAD = 2048  # bytes up to which a request's parsed JSON is cached

# The known parameters: type, largest number or length (0: any length), and both as text.
KNOWN: dict[str, tuple[type, int, str]] = {
    "method": (str, 0, "a str"),
    "binary_data_output": (bool, 0, "a bool"),
    "priority": (int, 2, "1 or 2, or 0 for the default"),
    "timeout": (int, (1 << 63) - 1, "microseconds, an integer from 0 (for none) on"),
    "sequence_start": (bool, 0, "a bool"),
    "sequence_end": (bool, 0, "a bool"),
    "idempotency_key": (str, MAX_ID, f"a string of at most {MAX_ID} characters"),
}


NON_FINITE = ("error", "string", "null")
"""The values of the parameter `non_finite`: how values that are not finite are encoded."""


class WantedOutput(NamedTuple):
    """A requested output; `binary` is None if the request's default applies."""

    name: str
    binary: bool | None = None
    classes: int = 0
    """How many of the largest classes to return instead of the values; 0 for the values."""
    non_finite: NonFinite | None = None
    """How values that are not finite are encoded in JSON; None for the request's default."""


@dataclass(slots=True)  # creating a frozen one takes several times as long
class TensorHeader:
    """The JSON entry of one tensor; its values are `size` bytes of binary data, or `data`."""

    name: str
    what: str
    datatype: str
    shape: tuple[int, ...]
    size: int | None
    data: object


@dataclass(slots=True)
class RequestHeader:
    """The JSON of a request, checked."""

    inputs: tuple[TensorHeader, ...]
    outputs: tuple[WantedOutput, ...]
    id: str | None
    parameters: dict[str, object]


def decode_head(text: bytes | bytearray | memoryview) -> RequestHeader:
    """Read the JSON of a request.

    Raises:
        RequestError: it does not follow the protocol.
    """
    return read_head(json_object(text))


def read_head(head: Mapping[str, object]) -> RequestHeader:
    """Check the JSON object of a request.

    Raises:
        RequestError: it does not follow the protocol.
    """
    parameters = _parameters("the request", head)
    if parameters:
        _check_parameters(parameters)
    wanted: dict[str, WantedOutput] = {}
    for entry in entries_of("outputs", head) if head.get("outputs") is not None else ():
        name = _name("output", entry)
        options = _parameters(f"output '{name}'", entry)
        binary, classes = options.get("binary_data"), options.get("classification", 0)
        if binary is not None and not isinstance(binary, bool):
            raise RequestError(f"output '{name}': expected binary_data true or false")
        if type(classes) is not int or not 0 <= classes < 1 << 31:
            raise RequestError(
                f"output '{name}': expected classification to be a number of classes, "
                f"got {short(classes)}"
            )
        if name in wanted:
            raise RequestError(f"output '{name}' is asked for twice")
        non_finite = options.get("non_finite")
        if non_finite is not None:
            _check_non_finite(f"output '{name}'", non_finite)
        ends = cast("NonFinite | None", non_finite)
        wanted[name] = WantedOutput(name, binary, classes, ends)
    inputs = tensor_headers("input", entries_of("inputs", head))
    return RequestHeader(inputs, tuple(wanted.values()), id_of(head), parameters)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the inputs lie in a request's binary data, if all are binary and fit their shapes."""

    inputs: tuple[tuple[str, torch.dtype, tuple[int, ...], slice], ...]
    """Name, dtype, shape and byte range of each."""
    size: int
    """Bytes of all inputs."""


@lru_cache(maxsize=256)
def known_head(text: bytes) -> tuple[RequestHeader, Layout | None]:
    """Do as `decode_head`, and return the layout if no input's values need to be checked.

    A client that sends binary data usually repeats the same JSON, so the result is cached.
    """
    head = decode_head(text)
    places = []
    end = 0
    for tensor in head.inputs:
        dtype = BY_WIRE.get(tensor.datatype)
        if dtype is None or dtype.torch is torch.bool or tensor.size is None:
            return head, None
        if tensor.size != math.prod(tensor.shape) * dtype.size:
            return head, None
        places.append((tensor.name, dtype.torch, tensor.shape, slice(end, end + tensor.size)))
        end += tensor.size
    return head, Layout(tuple(places), end)


def tensor_headers(kind: str, entries: Iterable[dict[str, object]]) -> tuple[TensorHeader, ...]:
    """Check the JSON entries of tensors without reading their data; `kind` is input or output.

    Raises:
        RequestError: a name is missing or duplicate; a datatype, shape or size is invalid.
    """
    tensors: dict[str, TensorHeader] = {}
    for entry in entries:
        name = _name(kind, entry)
        what = f"{kind} '{name}'"
        if name in tensors:
            raise RequestError(f"{what} is given twice")
        datatype = check_datatype(what, entry.get("datatype"))
        shape = check_shape(what, entry.get("shape"))
        if kind == "input" and datatype == BYTES and math.prod(shape) > MAX_STRINGS:
            raise RequestError(f"{what}: expected at most {MAX_STRINGS} elements of BYTES")
        size = _parameters(what, entry).get("binary_data_size")
        if size is None and "data" not in entry:
            raise RequestError(f"{what}: expected data or a binary_data_size")
        if size is not None and "data" in entry:
            raise RequestError(f"{what}: expected either data or a binary_data_size, got both")
        if size is not None and (not isinstance(size, int) or type(size) is bool or size < 0):
            raise RequestError(f"{what}: expected a binary_data_size from 0 on, got {short(size)}")
        tensors[name] = TensorHeader(name, what, datatype, shape, size, entry.get("data"))
    return tuple(tensors.values())


def json_object(text: bytes | bytearray | memoryview) -> dict[str, object]:
    """Parse a JSON object.

    Raises:
        RequestError: the text is not JSON, or not an object.
    """
    try:
        return parse_object(text)
    except ValuesError as error:
        raise RequestError(str(error)) from None


def entries_of(key: str, head: Mapping[str, object]) -> list[dict[str, object]]:
    """Return the list of objects under a key.

    Raises:
        RequestError: the value is not a list of objects.
    """
    entries = head.get(key)
    if not isinstance(entries, list) or not {*map(type, entries)} <= {dict}:
        raise RequestError(f"expected '{key}' to be a list of objects")
    return entries


def _name(what: str, entry: Mapping[str, object]) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise RequestError(f"expected every {what} to have a name, got {short(name)}")
    return name


def id_of(head: Mapping[str, object]) -> str | None:
    """Return a message's id, or None.

    Raises:
        RequestError: the id is not a string.
    """
    value = head.get("id")
    if value is not None and not isinstance(value, str):
        raise RequestError(f"expected the id to be a string, got {short(value)}")
    return value


def _parameters(what: str, entry: Mapping[str, object]) -> dict[str, object]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise RequestError(f"{what}: expected parameters to be an object")
    for name in REFUSED:
        if name in parameters:
            raise RequestError(f"{what}: parameter '{name}' is not supported")
    return parameters


def _check_parameters(parameters: Mapping[str, object]) -> None:
    """Raise RequestError unless each known parameter has a valid value."""
    for name, value in parameters.items():
        if name not in KNOWN:
            continue
        kind, largest, expected = KNOWN[name]
        too_large = type(value) is int and not 0 <= value <= largest
        too_long = type(value) is str and 0 < largest < len(value)
        if type(value) is not kind or too_large or too_long:
            raise RequestError(f"parameter '{name}': expected {expected}, got {short(value)}")
    if "non_finite" in parameters:
        _check_non_finite("parameter 'non_finite'", parameters["non_finite"])
    if "sequence_id" in parameters:
        _check_sequence_id(parameters["sequence_id"])


def _check_non_finite(what: str, value: object) -> None:
    if value not in NON_FINITE:
        raise RequestError(
            f"{what}: expected non_finite to be one of {', '.join(NON_FINITE)}, got {short(value)}"
        )


def _check_sequence_id(value: object) -> None:
    fits = (type(value) is int and 0 <= value < 1 << 64) or (
        isinstance(value, str) and len(value) <= MAX_ID
    )
    if not fits:
        raise RequestError(
            f"parameter 'sequence_id': expected a string of at most {MAX_ID} characters "
            f"or an integer of 64 bits without sign, got {short(value)}"
        )

"""Messages of the Open Inference Protocol V2 over REST: request and response, bytes and tensors.

Sources: the protocol's "Inference" section and Triton's binary tensor data extension: a JSON
header of `Inference-Header-Content-Length` bytes, then the raw data of the tensors that have a
`binary_data_size`, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import orjson
import torch

from torchship.serve.errors import RequestError
from torchship.serve.tensors import (
    Bytes,
    Packed,
    Strings,
    Value,
    Wire,
    check_datatype,
    check_shape,
    datatype_of,
    from_binary,
    from_json,
    short,
    to_binary,
    to_json,
    unpacked,
)

HEADER_LENGTH = "Inference-Header-Content-Length"

# Parameters that change what an answer means: passing over them would answer another question.
REFUSED = ("shared_memory_region",)

SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
MAX_ID = 256  # characters of a sequence id

DEFAULT_PRIORITY = 2

CACHED_HEAD = 2048  # bytes of a request's JSON that is kept for when it comes again

# The type of each parameter that means something here, the largest number, and both in words.
KNOWN: dict[str, tuple[type, int, str]] = {
    "method": (str, 0, "a str"),
    "binary_data_output": (bool, 0, "a bool"),
    "priority": (int, 2, "1 or 2, or 0 for the default"),
    "timeout": (int, (1 << 63) - 1, "microseconds, an integer from 0 (for none) on"),
    "sequence_start": (bool, 0, "a bool"),
    "sequence_end": (bool, 0, "a bool"),
}


@dataclass(frozen=True)
class WantedOutput:
    """An output that the client asks for; `binary` is None where it leaves the form open."""

    name: str
    binary: bool | None = None
    classes: int = 0
    """How many of the largest classes to give instead of the values; 0 for the values."""


@dataclass(slots=True)
class InferRequest:
    """A request: inputs by name, the outputs wanted (empty for all), and how they travel."""

    inputs: dict[str, Value]
    outputs: tuple[WantedOutput, ...] = ()
    id: str | None = None
    parameters: dict[str, object] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method to run, from the parameter of that name."""
        return str(self.parameters.get("method", "forward"))

    @property
    def binary_output(self) -> bool:
        """Whether outputs travel as binary data where nothing else was said."""
        return self.parameters.get("binary_data_output") is True

    @property
    def priority(self) -> int:
        """1 for a request that goes before others, else 2."""
        value = self.parameters.get("priority")
        return value if isinstance(value, int) and value else DEFAULT_PRIORITY

    @property
    def timeout(self) -> float | None:
        """The seconds that the request may wait; None for as long as it takes."""
        value = self.parameters.get("timeout")
        return value / 1e6 if isinstance(value, int) and value else None

    @property
    def in_sequence(self) -> bool:
        """Whether a parameter says that this is a step of a sequence."""
        return bool(self.parameters) and any(self.parameters.get(name) for name in SEQUENCE)

    @property
    def sequence_id(self) -> str | None:
        """The sequence's id, numbers as their digits; None for 0 and the empty string too."""
        value = self.parameters.get("sequence_id")
        return str(value) if value else None

    @property
    def sequence_start(self) -> bool:
        """Whether the state is to start anew before this step."""
        return self.parameters.get("sequence_start") is True

    @property
    def sequence_end(self) -> bool:
        """Whether the state is to be freed after this step."""
        return self.parameters.get("sequence_end") is True


@dataclass(frozen=True)
class InferResponse:
    """A response: which model answered, and its outputs by name."""

    model: str
    version: str
    outputs: dict[str, Value]
    id: str | None = None


def decode_request(body: bytes, header_length: str | None = None) -> InferRequest:
    """Read a request; `header_length` is the HTTP header `Inference-Header-Content-Length`.

    Its tensors are copies: the request's bytes are not written to.

    Raises:
        RequestError: the body is not what the protocol says, or not what it says of itself.
    """
    request, inputs = decode_packed(body, header_length)
    request.inputs.update((name, unpacked(value)) for name, value in inputs.items())
    return request


def decode_packed(
    body: bytes, header_length: str | None = None
) -> tuple[InferRequest, dict[str, Packed | Strings]]:
    """Read a request without its inputs, and those as they came.

    Raises:
        RequestError: as `decode_request`.
    """
    text, rest = _split(body, header_length)
    if rest is not None and len(text) <= CACHED_HEAD:
        head = _known_head(bytes(text))
    else:
        head = _decode_head(text)
    inputs = _read_tensors(head.inputs, rest, bools=rest is not None or _has_bools(body))
    return InferRequest({}, head.outputs, head.id, head.parameters), inputs


@dataclass(slots=True)  # frozen ones take several times as long to make
class _Announced:
    """A tensor as the JSON announces it: `size` bytes of binary data, or `data` when None."""

    name: str
    what: str
    datatype: str
    shape: tuple[int, ...]
    size: int | None
    data: object


@dataclass(slots=True)
class _Head:
    """The JSON of a request, checked."""

    inputs: tuple[_Announced, ...]
    outputs: tuple[WantedOutput, ...]
    id: str | None
    parameters: dict[str, object]


def _has_bools(body: bytes) -> bool:
    return b"true" in body or b"false" in body


def _decode_head(text: bytes | memoryview) -> _Head:
    head = _object(text)
    parameters = _parameters("the request", head)
    if parameters:
        _check_parameters(parameters)
    wanted: list[WantedOutput] = []
    for entry in _entries("outputs", head) if head.get("outputs") is not None else ():
        name = _name("output", entry)
        said = _parameters(f"output '{name}'", entry)
        binary, classes = said.get("binary_data"), said.get("classification", 0)
        if binary is not None and not isinstance(binary, bool):
            raise RequestError(f"output '{name}': expected binary_data true or false")
        if type(classes) is not int or not 0 <= classes < 1 << 31:
            raise RequestError(
                f"output '{name}': expected classification to be a number of classes, "
                f"got {short(classes)}"
            )
        if any(name == other.name for other in wanted):
            raise RequestError(f"output '{name}' is asked for twice")
        wanted.append(WantedOutput(name, binary, classes))
    inputs = _announced("input", _entries("inputs", head))
    return _Head(inputs, tuple(wanted), _id(head), parameters)


# A client that sends binary data says the same of it again and again: the JSON is read once.
_known_head = lru_cache(maxsize=256)(_decode_head)


def encode_request(
    request: InferRequest, binary: Callable[[str], bool]
) -> tuple[bytes, int | None]:
    """Return a request's body and its header length; `binary` says how an input travels.

    The header length is None when there is no binary data: the body is JSON alone.

    Raises:
        RequestError: an input that JSON cannot carry.
    """
    head: dict[str, object] = {} if request.id is None else {"id": request.id}
    if request.parameters:
        head["parameters"] = request.parameters
    if request.outputs:
        head["outputs"] = [
            {"name": output.name}
            | ({} if output.binary is None else {"parameters": {"binary_data": output.binary}})
            for output in request.outputs
        ]
    return _encode(head, "input", request.inputs.items(), binary)


def encode_response(request: InferRequest, response: InferResponse) -> tuple[bytes, int | None]:
    """Return the body that answers `request`, and its header length (None: JSON alone).

    The outputs are those asked for, each in the form asked for.

    Raises:
        RequestError: an output that was asked for is not there, or JSON cannot carry it.
    """
    return encode_outputs(request, response.model, response.version, response.outputs, response.id)


def encode_outputs(
    request: InferRequest,
    model: str,
    version: str,
    found: Mapping[str, Wire],
    number: str | None,
) -> tuple[bytes, int | None]:
    """Return the body that answers `request` with the outputs it asks for, and its header length.

    `number` is the answer's id.

    Raises:
        RequestError: as `encode_response`.
    """
    head: dict[str, object] = {"model_name": model, "model_version": version}
    if number is not None:
        head["id"] = number
    wanted = request.outputs or tuple(WantedOutput(name) for name in found)
    form = {}
    for output in wanted:
        if output.name not in found:
            raise RequestError(
                f"unknown output '{output.name}': expected "
                + ", ".join(f"'{name}'" for name in found)
            )
        form[output.name] = request.binary_output if output.binary is None else output.binary
    outputs = ((name, found[name]) for name in form)
    return _encode(head, "output", outputs, form.__getitem__)


def decode_response(body: bytes, header_length: str | None = None) -> InferResponse:
    """Read a response.

    Raises:
        RequestError: the body is not what the protocol says.
    """
    text, rest = _split(body, header_length)
    head = _object(text)
    found = _read_tensors(_announced("output", _entries("outputs", head)), rest)
    outputs = {name: unpacked(value) for name, value in found.items()}
    model, version = str(head.get("model_name", "")), str(head.get("model_version", ""))
    return InferResponse(model, version, outputs, _id(head))


def decode_index_request(body: bytes) -> bool:
    """Read the body of a repository index request, which may be empty: are ready ones wanted only?

    Raises:
        RequestError: the body is not what the protocol says.
    """
    if not body:
        return False
    ready = _object(body).get("ready", False)
    if not isinstance(ready, bool):
        raise RequestError(f"expected 'ready' to be true or false, got {short(ready)}")
    return ready


def _split(body: bytes, header_length: str | None) -> tuple[bytes | memoryview, memoryview | None]:
    """Return the JSON text, and what follows it (None when no header length announces it)."""
    if header_length is None:
        return body, None
    digits = header_length.isascii() and header_length.isdigit() and len(header_length) < 20
    if not digits or not 0 < int(header_length) <= len(body):
        raise RequestError(
            f"{HEADER_LENGTH}: expected a length from 1 to the body's {len(body)} bytes, "
            f"got {short(header_length)}"
        )
    whole = memoryview(body)
    return whole[: int(header_length)], whole[int(header_length) :]


def _object(text: bytes | memoryview) -> dict[str, object]:
    try:
        head = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(head, dict):
        raise RequestError(f"expected a JSON object, got {type(head).__name__}")
    return head


def _entries(key: str, head: Mapping[str, object]) -> list[dict[str, object]]:
    entries = head.get(key)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise RequestError(f"expected '{key}' to be a list of objects")
    return entries


def _name(what: str, entry: Mapping[str, object]) -> str:
    name = entry.get("name")
    if not isinstance(name, str):
        raise RequestError(f"expected every {what} to have a name, got {short(name)}")
    return name


def _id(head: Mapping[str, object]) -> str | None:
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
    """Raise RequestError unless each parameter that we know has a value of its kind."""
    for name, value in parameters.items():
        if name not in KNOWN:
            continue
        kind, largest, expected = KNOWN[name]
        if type(value) is not kind or (type(value) is int and not 0 <= value <= largest):
            raise RequestError(f"parameter '{name}': expected {expected}, got {short(value)}")
    if "sequence_id" in parameters:
        _check_sequence_id(parameters["sequence_id"])


def _check_sequence_id(value: object) -> None:
    fits = (type(value) is int and 0 <= value < 1 << 64) or (
        isinstance(value, str) and len(value) <= MAX_ID
    )
    if not fits:
        raise RequestError(
            f"parameter 'sequence_id': expected a string of at most {MAX_ID} characters "
            f"or an integer of 64 bits without sign, got {short(value)}"
        )


def _announced(kind: str, entries: Iterable[dict[str, object]]) -> tuple[_Announced, ...]:
    """Check what is said of tensors, without reading their data."""
    tensors: dict[str, _Announced] = {}
    for entry in entries:
        name = _name(kind, entry)
        what = f"{kind} '{name}'"
        if name in tensors:
            raise RequestError(f"{what} is given twice")
        datatype = check_datatype(what, entry.get("datatype"))
        shape = check_shape(what, entry.get("shape"))
        size = _parameters(what, entry).get("binary_data_size")
        if size is None and "data" not in entry:
            raise RequestError(f"{what}: expected data or a binary_data_size")
        if size is not None and "data" in entry:
            raise RequestError(f"{what}: expected either data or a binary_data_size, got both")
        if size is not None and (not isinstance(size, int) or type(size) is bool or size < 0):
            raise RequestError(f"{what}: expected a binary_data_size from 0 on, got {short(size)}")
        tensors[name] = _Announced(name, what, datatype, shape, size, entry.get("data"))
    return tuple(tensors.values())


def _read_tensors(
    announced: Iterable[_Announced], rest: memoryview | None, bools: bool = True
) -> dict[str, Packed | Strings]:
    tensors: dict[str, Packed | Strings] = {}
    place = 0
    for one in announced:
        what, size = one.what, one.size
        if size is None:
            tensors[one.name] = from_json(what, one.datatype, one.shape, one.data, bools=bools)
            continue
        if rest is None:
            raise RequestError(f"{what} has a binary_data_size, and {HEADER_LENGTH} is missing")
        if size > len(rest) - place:
            raise RequestError(
                f"{what}: binary_data_size is {size}, and {len(rest) - place} bytes are left"
            )
        tensors[one.name] = from_binary(what, one.datatype, one.shape, rest[place : place + size])
        place += size
    if rest is not None and place != len(rest):
        raise RequestError(f"expected {place} bytes of binary data after the JSON, got {len(rest)}")
    return tensors


def _encode(
    head: dict[str, object],
    kind: str,
    tensors: Iterable[tuple[str, Wire]],
    binary: Callable[[str], bool],
) -> tuple[bytes, int | None]:
    entries = []
    chunks: list[Bytes] = []
    for name, value in tensors:
        shape = list(value.shape) if isinstance(value, torch.Tensor) else value.shape
        entry: dict[str, object] = {"name": name, "datatype": datatype_of(value), "shape": shape}
        if binary(name):
            chunks.append(to_binary(value))
            entry["parameters"] = {"binary_data_size": len(chunks[-1])}
        else:
            entry["data"] = to_json(f"{kind} '{name}'", value)
        entries.append(entry)
    head[f"{kind}s"] = entries
    text = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join((text, *chunks)), len(text)) if chunks else (text, None)

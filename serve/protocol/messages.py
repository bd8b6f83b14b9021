"""Messages of the Open Inference Protocol V2 over REST: request and response, bytes and tensors.

Sources: the protocol's "Inference" section and Triton's binary tensor data extension: a JSON
header of `Inference-Header-Content-Length` bytes, then the raw data of the tensors that have a
`binary_data_size`, in their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import orjson
import torch

from torchship.script.format.dtypes import BY_TORCH
from torchship.serve.errors import RequestError
from torchship.serve.protocol.drafts import LARGE_JSON, AnswerDraft, Body, draft_of
from torchship.serve.protocol.json_values import NonFinite
from torchship.serve.protocol.request_header import (
    CACHED_HEAD,
    TensorHeader,
    WantedOutput,
    decode_head,
    entries_of,
    id_of,
    json_object,
    known_head,
    read_head,
    tensor_headers,
)
from torchship.serve.protocol.small_json import json_around, small_json
from torchship.serve.protocol.tensors import (
    RawTensor,
    Strings,
    Value,
    Wire,
    from_binary,
    from_json,
    short,
    unpacked,
)

HEADER_LENGTH = "Inference-Header-Content-Length"

SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
DEFAULT_PRIORITY = 2


@dataclass(slots=True)
class InferRequest:
    """A request: inputs by name, the requested outputs (empty for all), id and parameters."""

    inputs: Mapping[str, Wire]
    """Raw tensors and strings where the request was read from bytes."""
    outputs: tuple[WantedOutput, ...] = ()
    id: str | None = None
    parameters: dict[str, object] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """The method to run, from the parameter of that name."""
        return str(self.parameters.get("method", "forward"))

    @property
    def binary_output(self) -> bool:
        """Whether outputs are sent as binary data unless one says otherwise."""
        return self.parameters.get("binary_data_output") is True

    @property
    def non_finite(self) -> NonFinite:
        """How values that are not finite are encoded in JSON, unless an output says otherwise."""
        return cast("NonFinite", self.parameters.get("non_finite", "error"))

    @property
    def priority(self) -> int:
        """1 for a request that runs before others, else 2."""
        value = self.parameters.get("priority")
        return value if isinstance(value, int) and value else DEFAULT_PRIORITY

    @property
    def timeout(self) -> float | None:
        """The seconds that the request may wait in the queue; None for no limit."""
        value = self.parameters.get("timeout")
        return value / 1e6 if isinstance(value, int) and value else None

    @property
    def asked(self) -> frozenset[str]:
        """The names of the requested outputs; empty for all."""
        return _names(self.outputs)

    @property
    def in_sequence(self) -> bool:
        """Whether this is a step of a sequence."""
        return bool(self.parameters) and any(self.parameters.get(name) for name in SEQUENCE)

    @property
    def sequence_id(self) -> str | None:
        """The sequence's id, an integer as its digits; None for none, 0 and the empty string."""
        value = self.parameters.get("sequence_id")
        return str(value) if value else None

    @property
    def sequence_start(self) -> bool:
        """Whether the sequence starts with this step."""
        return self.parameters.get("sequence_start") is True

    @property
    def sequence_end(self) -> bool:
        """Whether the sequence ends with this step, which frees its state."""
        return self.parameters.get("sequence_end") is True

    @property
    def idempotency_key(self) -> str:
        """The client's name for this step of a sequence, which identifies a retry; "" for none.

        The request's `id` is not used for this: the protocol does not require unique ids, and some
        clients send the same one with each request.
        """
        return str(self.parameters.get("idempotency_key", ""))


@dataclass(frozen=True)
class InferResponse:
    """A response: which model answered, and its outputs by name."""

    model: str
    version: str
    outputs: dict[str, Value]
    id: str | None = None


def decode_request(body: bytes | bytearray, header_length: str | None = None) -> InferRequest:
    """Read a request; `header_length` is the HTTP header `Inference-Header-Content-Length`.

    Its raw tensors may share the body's memory.

    Raises:
        RequestError: the body does not follow the protocol, or contradicts itself.
    """
    text, rest = split_body(body, header_length)
    layout = None
    if rest is not None and len(text) <= CACHED_HEAD:
        head, layout = known_head(bytes(text))
    else:
        head = decode_head(text)
    inputs: dict[str, RawTensor | Strings]
    if rest is not None and layout is not None and len(rest) == layout.size:
        inputs = {n: RawTensor(dtype, shape, rest[at]) for n, dtype, shape, at in layout.inputs}
    else:
        inputs = _read_tensors(head.inputs, rest, bools=rest is not None or _has_bools(body))
    return InferRequest(inputs, head.outputs, head.id, head.parameters)


def read_request(head: Mapping[str, object], rest: memoryview | None) -> InferRequest:
    """Read a request whose JSON is parsed already; `data` may be a tensor's raw bytes.

    `rest` is the binary data after the JSON; None if the request has no header length.

    Raises:
        RequestError: as `decode_request`.
    """
    read = read_head(head)
    inputs = _read_tensors(read.inputs, rest)
    return InferRequest(inputs, read.outputs, read.id, read.parameters)


def _has_bools(body: bytes | bytearray) -> bool:
    return b"true" in body or b"false" in body


def encode_request(
    request: InferRequest, binary: Callable[[str], bool], non_finite: NonFinite = "error"
) -> Body:
    """Return a request's body and its header length; `binary` selects inputs sent as binary data.

    The header length is None if there is no binary data: the body is JSON alone.
    `non_finite` is how values that are not finite are encoded in JSON.

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
    inputs = request.inputs.items()
    return draft_of(head, "input", inputs, binary, lambda _: non_finite).finish()


def encode_response(request: InferRequest, response: InferResponse) -> tuple[bytes, int | None]:
    """Return the body that answers `request`, and its header length (None: JSON alone).

    It contains the requested outputs, each in the requested form.

    Raises:
        RequestError: a requested output does not exist, or JSON cannot carry it.
    """
    made = encode_outputs(request, response.model, response.version, response.outputs, response.id)
    return made.finish() if isinstance(made, AnswerDraft) else made


def encode_outputs(
    request: InferRequest,
    model: str,
    version: str,
    found: Mapping[str, Wire],
    number: str | None,
) -> Body | AnswerDraft:
    """Return the body that answers `request` with its requested outputs, and its header length.

    `number` is the answer's id. If encoding the JSON would block the event loop for too long, the
    result is a draft that a helper process can finish.

    Raises:
        RequestError: as `encode_response`.
    """
    form = _form(request.outputs or tuple(map(WantedOutput, found)), request.binary_output)
    check_outputs(form, found)
    outputs = [found[name] for name in form]
    packed = [output for output in outputs if type(output) is RawTensor]
    if len(packed) == len(outputs):
        kinds = tuple([(output.dtype, output.shape) for output in packed])
        if number is None and all(form.values()):
            text = _binary_head(model, version, tuple(form), kinds)
            return b"".join([text, *[output.data for output in packed]]), len(text)
        small = sum([output.nbytes for output in packed]) <= LARGE_JSON
        if packed and small and not any(form.values()):
            text_around = json_around(model, version, tuple(form), kinds)
            return small_json(text_around, number, form, packed, _non_finite(request)), None
    head: dict[str, object] = {"model_name": model, "model_version": version}
    if number is not None:
        head["id"] = number
    chosen = zip(form, outputs, strict=True)
    draft = draft_of(head, "output", chosen, form.__getitem__, _non_finite(request))
    return draft if draft.json_bytes > LARGE_JSON else draft.finish()


def check_outputs(asked: Iterable[str], found: Collection[str]) -> None:
    """Refuse the name of an output that a model does not have.

    Raises:
        RequestError: naming it, and those that there are.
    """
    for name in asked:
        if name not in found:
            raise RequestError(
                f"unknown output '{name}': expected " + ", ".join(f"'{known}'" for known in found)
            )


def _non_finite(request: InferRequest) -> Callable[[str], NonFinite]:
    general = request.non_finite
    each = {o.name: o.non_finite for o in request.outputs if o.non_finite is not None}
    return lambda name: each.get(name, general)


@lru_cache(maxsize=256)
def _names(outputs: tuple[WantedOutput, ...]) -> frozenset[str]:
    return frozenset(output.name for output in outputs)


@lru_cache(maxsize=256)
def _form(outputs: tuple[WantedOutput, ...], binary: bool) -> Mapping[str, bool]:
    """Return whether each output is sent as binary data; `binary` is the default."""
    return {o.name: binary if o.binary is None else o.binary for o in outputs}


@lru_cache(maxsize=256)
def _binary_head(
    model: str,
    version: str,
    names: tuple[str, ...],
    kinds: tuple[tuple[torch.dtype, tuple[int, ...]], ...],
) -> bytes:
    """Return the JSON of an answer with only binary outputs; cached, since it seldom changes."""
    outputs = [
        {
            "name": name,
            "datatype": BY_TORCH[dtype].wire,
            "shape": shape,
            "parameters": {"binary_data_size": math.prod(shape) * BY_TORCH[dtype].size},
        }
        for name, (dtype, shape) in zip(names, kinds, strict=True)
    ]
    return orjson.dumps({"model_name": model, "model_version": version, "outputs": outputs})


def decode_response(body: bytes | bytearray, header_length: str | None = None) -> InferResponse:
    """Read a response.

    Raises:
        RequestError: the body is not what the protocol says.
    """
    text, rest = split_body(body, header_length)
    head = json_object(text)
    found = _read_tensors(tensor_headers("output", entries_of("outputs", head)), rest)
    outputs = {name: unpacked(value) for name, value in found.items()}
    model, version = str(head.get("model_name", "")), str(head.get("model_version", ""))
    return InferResponse(model, version, outputs, id_of(head))


def decode_index_request(body: bytes | bytearray) -> bool:
    """Read the body of a repository index request (may be empty): return its `ready` flag.

    Raises:
        RequestError: the body is not what the protocol says.
    """
    if not body:
        return False
    ready = json_object(body).get("ready", False)
    if not isinstance(ready, bool):
        raise RequestError(f"expected 'ready' to be true or false, got {short(ready)}")
    return ready


def split_body(
    body: bytes | bytearray, header_length: str | None
) -> tuple[bytes | bytearray | memoryview, memoryview | None]:
    """Return the JSON text and the data after it (None without a header length).

    Raises:
        RequestError: the header length is not a number, or longer than the body.
    """
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


def _read_tensors(
    headers: Iterable[TensorHeader], rest: memoryview | None, bools: bool = True
) -> dict[str, RawTensor | Strings]:
    tensors: dict[str, RawTensor | Strings] = {}
    place = 0
    for header in headers:
        what, size = header.what, header.size
        if size is None:
            tensors[header.name] = from_json(
                what, header.datatype, header.shape, header.data, bools=bools
            )
            continue
        if rest is None:
            raise RequestError(f"{what} has a binary_data_size, and {HEADER_LENGTH} is missing")
        if size > len(rest) - place:
            raise RequestError(
                f"{what}: binary_data_size is {size}, and {len(rest) - place} bytes are left"
            )
        tensors[header.name] = from_binary(
            what, header.datatype, header.shape, rest[place : place + size]
        )
        place += size
    if rest is not None and place != len(rest):
        raise RequestError(f"expected {place} bytes of binary data after the JSON, got {len(rest)}")
    return tensors

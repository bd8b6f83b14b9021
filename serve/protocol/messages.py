"""Messages of the Open Inference Protocol V2 over REST: request and response, bytes and tensors.

Sources: the protocol's "Inference" section and Triton's binary tensor data extension: a JSON
header of `Inference-Header-Content-Length` bytes, then the raw data of the tensors that have a
`binary_data_size`, in their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
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
    announced,
    decode_head,
    entries_of,
    id_of,
    json_object,
    known_head,
    read_head,
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
    def non_finite(self) -> NonFinite:
        """What values that are not finite become in JSON, where nothing else was said."""
        return cast("NonFinite", self.parameters.get("non_finite", "error"))

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
    def asked(self) -> frozenset[str]:
        """The names of the outputs that are asked for; none for all."""
        return _names(self.outputs)

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

    @property
    def idempotency_key(self) -> str:
        """What names this step of a sequence, so that the server knows it again; "" for nothing.

        The request's `id` is not used for this: the protocol does not ask that ids differ, and
        clients exist that send the same one with each request.
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

    Its tensors are copies: the request's bytes are not written to.

    Raises:
        RequestError: the body is not what the protocol says, or not what it says of itself.
    """
    return _unpacked(*decode_packed(body, header_length))


def read_request(head: Mapping[str, object], rest: memoryview | None) -> InferRequest:
    """Read a request of which the JSON was parsed; `data` may be a tensor's raw bytes.

    `rest` is what follows the JSON, None where no header length announces it.

    Raises:
        RequestError: as `decode_request`.
    """
    read = read_head(head)
    inputs = _read_tensors(read.inputs, rest)
    return _unpacked(InferRequest({}, read.outputs, read.id, read.parameters), inputs)


def _unpacked(request: InferRequest, inputs: Mapping[str, RawTensor | Strings]) -> InferRequest:
    request.inputs.update((name, unpacked(value)) for name, value in inputs.items())
    return request


def decode_packed(
    body: bytes | bytearray, header_length: str | None = None
) -> tuple[InferRequest, dict[str, RawTensor | Strings]]:
    """Read a request without its inputs, and those as they came.

    Raises:
        RequestError: as `decode_request`.
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
    return InferRequest({}, head.outputs, head.id, head.parameters), inputs


def _has_bools(body: bytes | bytearray) -> bool:
    return b"true" in body or b"false" in body


def encode_request(
    request: InferRequest, binary: Callable[[str], bool], non_finite: NonFinite = "error"
) -> Body:
    """Return a request's body and its header length; `binary` says how an input travels.

    The header length is None when there is no binary data: the body is JSON alone.
    `non_finite` says what values become in it that are not finite.

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

    The outputs are those asked for, each in the form asked for.

    Raises:
        RequestError: an output that was asked for is not there, or JSON cannot carry it.
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
    """Return the body that answers `request` with the outputs it asks for, and its header length.

    `number` is the answer's id. An answer with so much JSON that it would hold up the event loop
    is returned as it is before that is made.

    Raises:
        RequestError: as `encode_response`.
    """
    form = _form(request.outputs or tuple(map(WantedOutput, found)), request.binary_output)
    for name in form:
        if name not in found:
            raise RequestError(
                f"unknown output '{name}': expected " + ", ".join(f"'{known}'" for known in found)
            )
    outputs = [found[name] for name in form]
    packed = [output for output in outputs if type(output) is RawTensor]
    if len(packed) == len(outputs):
        said = tuple([(output.dtype, output.shape) for output in packed])
        if number is None and all(form.values()):
            text = _binary_head(model, version, tuple(form), said)
            return b"".join([text, *[output.data for output in packed]]), len(text)
        small = sum([output.nbytes for output in packed]) <= LARGE_JSON
        if packed and small and not any(form.values()):
            text_around = json_around(model, version, tuple(form), said)
            return small_json(text_around, number, form, packed, _non_finite(request)), None
    said_first: dict[str, object] = {"model_name": model, "model_version": version}
    if number is not None:
        said_first["id"] = number
    chosen = zip(form, outputs, strict=True)
    draft = draft_of(said_first, "output", chosen, form.__getitem__, _non_finite(request))
    return draft if draft.json_bytes > LARGE_JSON else draft.finish()


def _non_finite(request: InferRequest) -> Callable[[str], NonFinite]:
    general = request.non_finite
    each = {o.name: o.non_finite for o in request.outputs if o.non_finite is not None}
    return lambda name: each.get(name, general)


@lru_cache(maxsize=256)
def _names(outputs: tuple[WantedOutput, ...]) -> frozenset[str]:
    return frozenset(output.name for output in outputs)


@lru_cache(maxsize=256)
def _form(outputs: tuple[WantedOutput, ...], binary: bool) -> Mapping[str, bool]:
    """Return whether each output travels as binary data; `binary` where that was left open."""
    return {o.name: binary if o.binary is None else o.binary for o in outputs}


@lru_cache(maxsize=256)
def _binary_head(
    model: str,
    version: str,
    names: tuple[str, ...],
    said: tuple[tuple[torch.dtype, tuple[int, ...]], ...],
) -> bytes:
    """Return the JSON of an answer whose outputs are all binary; it is the same most times."""
    outputs = [
        {
            "name": name,
            "datatype": BY_TORCH[dtype].wire,
            "shape": shape,
            "parameters": {"binary_data_size": math.prod(shape) * BY_TORCH[dtype].size},
        }
        for name, (dtype, shape) in zip(names, said, strict=True)
    ]
    return orjson.dumps({"model_name": model, "model_version": version, "outputs": outputs})


def decode_response(body: bytes | bytearray, header_length: str | None = None) -> InferResponse:
    """Read a response.

    Raises:
        RequestError: the body is not what the protocol says.
    """
    text, rest = split_body(body, header_length)
    head = json_object(text)
    found = _read_tensors(announced("output", entries_of("outputs", head)), rest)
    outputs = {name: unpacked(value) for name, value in found.items()}
    model, version = str(head.get("model_name", "")), str(head.get("model_version", ""))
    return InferResponse(model, version, outputs, id_of(head))


def decode_index_request(body: bytes | bytearray) -> bool:
    """Read the body of a repository index request, which may be empty: are ready ones wanted only?

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
    """Return the JSON text, and what follows it (None when no header length announces it).

    Raises:
        RequestError: the header length is none, or longer than the body.
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
    said: Iterable[TensorHeader], rest: memoryview | None, bools: bool = True
) -> dict[str, RawTensor | Strings]:
    tensors: dict[str, RawTensor | Strings] = {}
    place = 0
    for one in said:
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

"""Outgoing messages whose tensor values are not yet encoded as JSON.

Encoding a few numbers is quick; encoding millions would block the event loop. The owner of a draft
can finish it directly or have a helper process do it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import orjson
import torch

from torchship.serve.protocol.json_values import NonFinite
from torchship.serve.protocol.tensors import (
    Bytes,
    RawTensor,
    Strings,
    Wire,
    datatype_of,
    to_binary,
    to_json,
)

Body: TypeAlias = tuple[bytes, int | None]
"""A message's bytes, and the length of the JSON at their beginning (None: JSON alone)."""

LARGE_JSON = 1 << 18
"""Bytes of JSON, or of tensors to be encoded as JSON, above which the work leaves the event loop:
it would block the loop for more than a few milliseconds."""


@dataclass(slots=True)  # creating a frozen one takes several times as long
class JsonTensor:
    """A tensor whose values are still missing in a message's JSON, at `entry["data"]`."""

    entry: dict[str, object]
    what: str
    value: RawTensor | torch.Tensor
    non_finite: NonFinite


@dataclass(slots=True)  # creating a frozen one takes several times as long
class AnswerDraft:
    """A message whose JSON still lacks the values of some tensors."""

    head: dict[str, object]
    tensors: list[JsonTensor]
    chunks: list[Bytes]
    """Binary data after the JSON."""

    @property
    def json_bytes(self) -> int:
        """The bytes of the tensors that are still to be encoded as JSON."""
        return sum([tensor.value.nbytes for tensor in self.tensors])

    def finish(self) -> Body:
        """Return the message, and its header length (None: JSON alone).

        Raises:
            RequestError: JSON cannot carry a value.
        """
        for tensor in self.tensors:
            tensor.entry["data"] = to_json(tensor.what, tensor.value, tensor.non_finite)
        return self.join(orjson.dumps(self.head, option=orjson.OPT_SERIALIZE_NUMPY))

    def join(self, text: Bytes) -> Body:
        """Return the message with this JSON, and its header length (None: JSON alone)."""
        if self.chunks:
            return b"".join((text, *self.chunks)), len(text)
        return bytes(text), None


def draft_of(
    head: dict[str, object],
    kind: str,
    tensors: Iterable[tuple[str, Wire]],
    binary: Callable[[str], bool],
    non_finite: Callable[[str], NonFinite] = lambda _: "error",
) -> AnswerDraft:
    """Return a message with the content of `head` and these inputs or outputs (`kind`).

    `binary` returns whether a tensor is sent as binary data; `non_finite` returns how the values
    that are not finite are encoded if it is sent as JSON.

    Raises:
        RequestError: strings that JSON cannot carry.
    """
    entries = []
    chunks: list[Bytes] = []
    in_json: list[JsonTensor] = []
    for name, value in tensors:
        shape = list(value.shape) if isinstance(value, torch.Tensor) else value.shape
        entry: dict[str, object] = {"name": name, "datatype": datatype_of(value), "shape": shape}
        if binary(name):
            chunks.append(to_binary(value))
            entry["parameters"] = {"binary_data_size": len(chunks[-1])}
        elif isinstance(value, Strings):
            entry["data"] = to_json(f"{kind} '{name}'", value)
        else:
            entry["data"] = None
            in_json.append(JsonTensor(entry, f"{kind} '{name}'", value, non_finite(name)))
        entries.append(entry)
    head[f"{kind}s"] = entries
    return AnswerDraft(head, in_json, chunks)

"""Encodes answers with few values around cached JSON text.

Most answers of a model differ only in their values. Building and encoding a whole object for each
would take longer than encoding the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

import orjson
import torch

from torchship.script.format.dtypes import BY_TORCH
from torchship.serve.protocol.json_values import NonFinite
from torchship.serve.protocol.tensors import RawTensor, to_json


@lru_cache(maxsize=256)
def json_around(
    model: str,
    version: str,
    names: tuple[str, ...],
    kinds: tuple[tuple[torch.dtype, tuple[int, ...]], ...],
) -> tuple[bytes, list[bytes]]:
    """Return the beginning of the JSON, and the text before each output's values.

    Cached, because it is the same for most answers of a model.
    """
    entries = [
        orjson.dumps({"name": name, "datatype": BY_TORCH[dtype].wire, "shape": shape})
        for name, (dtype, shape) in zip(names, kinds, strict=True)
    ]
    before = [b"}," if place else b',"outputs":[' for place in range(len(names))]
    lead_ins = [b'%b%b,"data":' % (b, entry[:-1]) for b, entry in zip(before, entries, strict=True)]
    return orjson.dumps({"model_name": model, "model_version": version})[:-1], lead_ins


def small_json(
    text_around: tuple[bytes, list[bytes]],
    number: str | None,
    names: Iterable[str],
    outputs: Iterable[RawTensor],
    non_finite: Callable[[str], NonFinite],
) -> bytes:
    """Return an answer's JSON; `text_around` is `json_around` of the same outputs, `number` its id.

    Raises:
        RequestError: JSON cannot carry a value.
    """
    head, lead_ins = text_around
    parts = [head]
    if number is not None:
        parts += b',"id":', orjson.dumps(number)
    for lead_in, name, output in zip(lead_ins, names, outputs, strict=True):
        values = to_json(f"output '{name}'", output, non_finite(name))
        parts += lead_in, orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join((*parts, b"}]}"))

"""The `classification` parameter of a requested output: its largest classes, not its values.

Source: Triton's classification extension. An output `[..., classes]` becomes BYTES `[..., k]`, each
element `value:index`, or `value:index:label` where the archive has labels, the largest first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from torchship.script.format.dtypes import BY_TORCH
from torchship.script.runtime.program import shape_text
from torchship.serve.errors import RequestError
from torchship.serve.protocol.request_header import WantedOutput
from torchship.serve.protocol.tensors import RawTensor, Strings, Wire


def classified(
    outputs: Mapping[str, Wire],
    wanted: Sequence[WantedOutput],
    labels: Mapping[str, Sequence[str]],
) -> dict[str, Wire]:
    """Return the outputs, replacing those for which `wanted` sets `classes` by their classes.

    Raises:
        RequestError: such an output is not numeric, or has no dimension of classes.
    """
    found = dict(outputs)
    for output in wanted:
        value = found.get(output.name)
        if output.classes and value is not None:
            found[output.name] = largest(output.name, value, output.classes, labels)
    return found


def largest(name: str, value: Wire, count: int, labels: Mapping[str, Sequence[str]]) -> Strings:
    """Return the `count` largest classes of each row, or all if there are fewer.

    Among equal values the lower index comes first. NaN counts as the largest.

    Raises:
        RequestError: the output is not numeric, or has no dimension of classes.
    """
    if isinstance(value, RawTensor):
        value = value.tensor()
    if isinstance(value, Strings) or value.dtype is torch.bool or not value.dim():
        got = (
            f"BYTES{shape_text(value.shape)}"
            if isinstance(value, Strings)
            else f"{BY_TORCH[value.dtype].wire}{shape_text(tuple(value.shape))}"
        )
        raise RequestError(
            f"output '{name}': classification needs numbers with a dimension of classes, got {got}"
        )
    size = value.shape[-1]
    rows = value.reshape(-1, size) if value.numel() else value.reshape(0, size)
    ranked = rows.sort(dim=-1, descending=True, stable=True)
    best = ranked.values[:, :count].tolist(), ranked.indices[:, :count].tolist()
    known = labels.get(name, ())
    items = []
    for numbers, indices in zip(*best, strict=True):
        for number, index in zip(numbers, indices, strict=True):
            text = f"{number:f}" if value.is_floating_point() else str(number)
            label = f":{known[index]}" if index < len(known) else ""
            items.append(f"{text}:{index}{label}".encode())
    return Strings((*value.shape[:-1], min(count, size)), items)

"""The float64 outputs of golden cases: from them, how much of a difference is LibTorch's own error.

LibTorch's own largest error of each output is stored beside it, because it is taken over several
runs (docs/archive.md, "Float64 outputs").

They are an optional record, because readers refuse unknown fields of the manifest but accept
further records. A case has all of them or none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import safetensors.torch
import torch
from safetensors import SafetensorError

from torchship.script.errors import ArchiveError
from torchship.script.format.golden import Case, Step
from torchship.script.format.plain_tensors import contiguous_copy
from torchship.script.format.tree import Flat


@dataclass(frozen=True)
class Float64Step:
    """The float64 outputs of a step, and LibTorch's own largest error of each, by flat name."""

    outputs: Flat
    errors: Mapping[str, float]


Float64Outputs = Mapping[int, Sequence[Float64Step]]
"""For golden cases, by number: the float64 outputs of each step."""

LOWER_PRECISIONS = frozenset({torch.float16, torch.bfloat16, torch.float32})
MAX_BYTES = 1 << 20  # of all float64 outputs of an archive


def of_lower_precision(step: Step) -> Flat:
    """Return the golden outputs whose rounding float64 outputs show, by flat name.

    Those of float64 are left out: nothing would be more precise than they are.
    """
    return {
        name: golden for name, golden in step.outputs.items() if golden.dtype in LOWER_PRECISIONS
    }


def within_limit(outputs: Mapping[int, Sequence[Flat]]) -> Mapping[int, Sequence[Flat]]:
    """Return the smallest cases that have at most `MAX_BYTES` together.

    Args:
        outputs: the float64 outputs of each step, by the case's number.
    """
    sizes = {
        number: sum(tensor.nbytes for flat in steps for tensor in flat.values())
        for number, steps in outputs.items()
    }
    kept: dict[int, Sequence[Flat]] = {}
    room = MAX_BYTES
    for number in sorted(sizes, key=lambda number: (sizes[number], number)):
        room -= sizes[number]
        if room < 0:
            break
        kept[number] = outputs[number]
    return kept


def to_safetensors(outputs: Float64Outputs) -> bytes:
    """Return the record: `<case>/<step>/out/<output>` and `<case>/<step>/error/<output>`."""
    tensors = {}
    for number, steps in sorted(outputs.items()):
        for index, step in enumerate(steps):
            for name, tensor in step.outputs.items():
                error = torch.tensor(step.errors[name], dtype=torch.float64)
                tensors[f"{number}/{index}/out/{name}"] = contiguous_copy(tensor)
                tensors[f"{number}/{index}/error/{name}"] = error
    return safetensors.torch.save(tensors)


def from_safetensors(data: bytes, cases: Sequence[Case]) -> Float64Outputs:
    """Read the record; `cases` are the golden cases.

    Raises:
        ArchiveError: the record is damaged or does not match the golden cases.
    """
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArchiveError(f"the record of float64 outputs is not safetensors: {error}") from None
    outputs: dict[int, Sequence[Float64Step]] = {}
    for number, case in enumerate(cases):
        if not any(key.startswith(f"{number}/") for key in tensors):
            continue
        outputs[number] = [
            _taken_step(tensors, f"{number}/{index}", of_lower_precision(step))
            for index, step in enumerate(case.steps)
        ]
    if tensors:
        raise ArchiveError(
            f"the record of float64 outputs has '{min(tensors)}', which is no golden output of "
            "lower precision"
        )
    return outputs


def _taken_step(tensors: Flat, prefix: str, golden: Flat) -> Float64Step:
    return Float64Step(
        {name: _taken(tensors, f"{prefix}/out/{name}", golden[name].shape) for name in golden},
        {name: _taken_error(tensors, f"{prefix}/error/{name}") for name in golden},
    )


def _taken_error(tensors: Flat, key: str) -> float:
    error = float(_taken(tensors, key, torch.Size()))
    if not 0 <= error < math.inf:
        raise ArchiveError(
            f"the record of float64 outputs: '{key}': expected a finite error of at least 0, got "
            f"{error:g}"
        )
    return error


def _taken(tensors: Flat, key: str, shape: torch.Size) -> torch.Tensor:
    tensor = tensors.pop(key, None)
    if tensor is None:
        raise ArchiveError(f"the record of float64 outputs lacks '{key}'")
    if tensor.dtype != torch.float64 or tensor.shape != shape:
        raise ArchiveError(
            f"the record of float64 outputs: '{key}': expected float64{list(shape)}, got "
            f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
        )
    if bool(torch.isnan(tensor).any()):
        raise ArchiveError(f"the record of float64 outputs: '{key}' holds NaN")
    return tensor

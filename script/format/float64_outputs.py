"""The float64 outputs of golden cases: from them, how much of a difference is LibTorch's own error.

They are an optional record, because readers refuse unknown fields of the manifest but accept
further records. A case has all of them or none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import safetensors.torch
import torch
from safetensors import SafetensorError

from torchship.script.errors import ArchiveError
from torchship.script.format.golden import Case, Step
from torchship.script.format.plain_tensors import contiguous_copy
from torchship.script.format.tree import Flat

Float64Outputs = Mapping[int, Sequence[Flat]]
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


def within_limit(outputs: Float64Outputs) -> Float64Outputs:
    """Return the smallest cases that have at most `MAX_BYTES` together."""
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
    """Return the record: tensors `<case>/<step>/out/<output>`, as the golden record names them."""
    return safetensors.torch.save(
        {
            f"{number}/{index}/out/{name}": contiguous_copy(tensor)
            for number, steps in sorted(outputs.items())
            for index, flat in enumerate(steps)
            for name, tensor in flat.items()
        }
    )


def from_safetensors(data: bytes, cases: Sequence[Case]) -> Float64Outputs:
    """Read the record; `cases` are the golden cases.

    Raises:
        ArchiveError: the record is damaged or does not match the golden cases.
    """
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArchiveError(f"the record of float64 outputs is not safetensors: {error}") from None
    outputs: dict[int, Sequence[Flat]] = {}
    for number, case in enumerate(cases):
        if not any(key.startswith(f"{number}/") for key in tensors):
            continue
        outputs[number] = [
            {
                name: _taken(tensors, f"{number}/{index}/out/{name}", golden)
                for name, golden in of_lower_precision(step).items()
            }
            for index, step in enumerate(case.steps)
        ]
    if tensors:
        raise ArchiveError(
            f"the record of float64 outputs has '{min(tensors)}', which is no golden output of "
            "lower precision"
        )
    return outputs


def _taken(tensors: Flat, key: str, golden: torch.Tensor) -> torch.Tensor:
    tensor = tensors.pop(key, None)
    if tensor is None:
        raise ArchiveError(f"the record of float64 outputs lacks '{key}'")
    if tensor.dtype != torch.float64 or tensor.shape != golden.shape:
        raise ArchiveError(
            f"the record of float64 outputs: '{key}': expected float64{list(golden.shape)}, got "
            f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
        )
    if bool(torch.isnan(tensor).any()):
        raise ArchiveError(f"the record of float64 outputs: '{key}' holds NaN")
    return tensor

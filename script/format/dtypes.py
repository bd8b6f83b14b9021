"""The table of tensor dtypes: torch, manifest, Open Inference Protocol and safetensors.

Sources: Open Inference Protocol V2, "Tensor Data Types"; safetensors format, `dtype` field.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Dtype:
    """A tensor dtype with its names in each format; `size` is in bytes per element.

    `rtol` and `atol` are the default tolerances, those of `torch.testing.assert_close`. Integers
    and booleans must be equal.
    """

    name: str
    torch: torch.dtype
    wire: str
    safetensors: str
    size: int
    rtol: float = 0.0
    atol: float = 0.0

    @property
    def is_float(self) -> bool:
        """Whether values are floating point."""
        return self.torch.is_floating_point


DTYPES = (
    Dtype("bool", torch.bool, "BOOL", "BOOL", 1),
    Dtype("uint8", torch.uint8, "UINT8", "U8", 1),
    Dtype("uint16", torch.uint16, "UINT16", "U16", 2),
    Dtype("uint32", torch.uint32, "UINT32", "U32", 4),
    Dtype("uint64", torch.uint64, "UINT64", "U64", 8),
    Dtype("int8", torch.int8, "INT8", "I8", 1),
    Dtype("int16", torch.int16, "INT16", "I16", 2),
    Dtype("int32", torch.int32, "INT32", "I32", 4),
    Dtype("int64", torch.int64, "INT64", "I64", 8),
    Dtype("float16", torch.float16, "FP16", "F16", 2, 1e-3, 1e-5),
    Dtype("bfloat16", torch.bfloat16, "BF16", "BF16", 2, 1.6e-2, 1e-5),
    Dtype("float32", torch.float32, "FP32", "F32", 4, 1.3e-6, 1e-5),
    Dtype("float64", torch.float64, "FP64", "F64", 8, 1e-7, 1e-7),
)

BY_NAME = {d.name: d for d in DTYPES}
BY_TORCH = {d.torch: d for d in DTYPES}
BY_WIRE = {d.wire: d for d in DTYPES}


def name_of(dtype: torch.dtype) -> str:
    """Return the manifest's name of a torch dtype; torch's name if no archive can carry it."""
    known = BY_TORCH.get(dtype)
    return known.name if known else str(dtype).removeprefix("torch.")

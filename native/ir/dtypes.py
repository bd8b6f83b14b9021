"""The dtypes that C has: their sizes in bytes, their names in C and in torch."""

from __future__ import annotations

import torch

ITEM_SIZES = {
    "float32": 4, "float64": 8, "int64": 8, "int32": 4,
    "int16": 2, "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip
C_TYPES = {
    "float32": "float", "float64": "double", "int64": "int64_t", "int32": "int32_t",
    "int16": "int16_t", "int8": "int8_t", "uint8": "uint8_t", "bool": "uint8_t",
}  # fmt: skip
TORCH = {
    "float32": torch.float32, "float64": torch.float64, "int64": torch.int64,
    "int32": torch.int32, "int16": torch.int16, "int8": torch.int8, "uint8": torch.uint8,
    "bool": torch.bool,
}  # fmt: skip
NAMES = {value: key for key, value in TORCH.items()}
DTYPE_CODES = {
    "uint8": 0, "int8": 1, "int16": 2, "int32": 3, "int64": 4,
    "float32": 6, "float64": 7, "bool": 11,
}  # fmt: skip
"""TorchScript's numbers."""
DTYPES = {code: name for name, code in DTYPE_CODES.items()}
UNSUPPORTED_DTYPES = {
    5: "float16", 8: "complex32", 9: "complex64", 10: "complex128", 15: "bfloat16",
}  # fmt: skip
"""By TorchScript's numbers."""

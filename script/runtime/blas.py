"""Detects that another BLAS library than torch's own computes its matrix products.

The dynamic linker binds a name to the first library that has it. Torch's own BLAS is part of
`libtorch_cpu.so`; a library that a program or LD_PRELOAD loaded before takes precedence.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

import torch

# Functions of each kind: a library may have only BLAS, only LAPACK, or only the C names.
FUNCTIONS = (
    *("sgemm_", "dgemm_", "sgemv_", "sdot_", "saxpy_", "strsm_", "cblas_sgemm", "cblas_dgemm"),
    *("sgetrf_", "spotrf_", "sgesdd_", "ssyevd_", "cblas_sdot", "cblas_saxpy"),
)


class _Place(ctypes.Structure):
    """`Dl_info` of dladdr(3)."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


@cache
def foreign_blas() -> str:
    """Return the file of a BLAS or LAPACK that replaces torch's own; "" if none does."""
    own = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if sys.platform != "linux" or not own.is_file():
        return ""
    whole = ctypes.CDLL(None)
    torchs = ctypes.CDLL(str(own))
    for function in FUNCTIONS:
        bound, meant = _file_of(whole, function), _file_of(torchs, function)
        if bound and meant and Path(bound).resolve() != Path(meant).resolve():
            return bound
    return ""


def foreign_blas_note() -> str:
    """Return a message about `foreign_blas`: what it means, and what to do; "" if there is none."""
    file = foreign_blas()
    return file and (
        f"matrix products are computed by '{file}', which this process has loaded before torch's "
        "own BLAS: they round otherwise; load that library with RTLD_LOCAL, or do without it"
    )


def _file_of(library: ctypes.CDLL, function: str) -> str:
    try:
        address = ctypes.cast(getattr(library, function), ctypes.c_void_p)
    except AttributeError:
        return ""
    place = _Place()
    if not ctypes.CDLL(None).dladdr(address, ctypes.byref(place)) or place.file is None:
        return ""
    return bytes(place.file).decode(errors="replace")

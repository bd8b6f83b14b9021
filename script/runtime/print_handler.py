"""TorchScript's prints on their way into Python.

Torch's own handler writes them to `sys.stdout`, and raises inside the model where that fails: for
bytes that are not UTF-8, which a slice of a TorchScript string may be, or without a `sys.stdout`.
In C++ the same model goes on, and so it shall here.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

import torch

from torchship.script.runtime import printing

# torch::jit::setPrintHandler(void (*)(std::string const&)), which torch does not bind for Python.
SET_HANDLER = (
    "_ZN5torch3jit15setPrintHandlerEPFvRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEE"
)


def _print(text: int) -> None:
    """Take a C++ string by its address: it begins with a pointer to its bytes, and their number."""
    start, size = (ctypes.c_size_t * 2).from_address(text)
    printed = ctypes.string_at(start, size)
    printing.printed_by_script(printed.decode(errors="backslashreplace"))


_handler = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_print)


@cache
def install() -> None:
    """Have TorchScript's prints taken by `printing`, from the first call on."""
    if sys.platform == "linux":
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        library[SET_HANDLER](_handler)

"""Routes the prints of TorchScript models to `printing`.

Torch's own handler writes them to `sys.stdout`, and raises inside the model if that fails: for
bytes that are not UTF-8, which a slice of a TorchScript string may be, or without a `sys.stdout`.
In C++ the same model would continue, and so it must here.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

import torch

from torchship.script.runtime import printing

# torch::jit::setPrintHandler(void (*)(std::string const&)), which torch does not expose to Python.
SET_HANDLER = (
    "_ZN5torch3jit15setPrintHandlerEPFvRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEE"
)


def _print(text: int) -> None:
    """Read a C++ string by its address: it begins with a pointer to its bytes and their count."""
    start, size = (ctypes.c_size_t * 2).from_address(text)
    printed = ctypes.string_at(start, size)
    printing.printed_by_script(printed.decode(errors="backslashreplace"))


_handler = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_print)


@cache
def install() -> None:
    """Route TorchScript's prints to `printing`; later calls do nothing."""
    if sys.platform == "linux":
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        library[SET_HANDLER](_handler)

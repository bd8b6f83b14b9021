"""The floating-point mode of the calling thread: rounding, subnormal numbers, trapping.

A program may have changed it, and so does a library that was compiled with `-ffast-math` when it is
loaded. Golden outputs were computed in the default mode that a process starts with, so whatever is
compared with them must be computed in that mode too.
"""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Environment = ctypes.Array[ctypes.c_char]

_SIZE = 64  # at least the size of a `fenv_t`: 32 bytes on x86-64, 8 on aarch64
_DEFAULT = ctypes.c_void_p(-1)  # FE_DFL_ENV of glibc and musl


def _x86_is_default(words: memoryview) -> bool:
    # The x87 control word without reserved bits, and MXCSR without status flags.
    return words[0] & 0x0F3F == 0x033F and words[7] & 0xFFC0 == 0x1F80


def _arm_is_default(words: memoryview) -> bool:
    return words[0] == 0


_IS_DEFAULT = {"x86_64": _x86_is_default, "aarch64": _arm_is_default}


class _Registers(threading.local):
    """A buffer for a thread's registers, allocated once per thread."""

    def __init__(self) -> None:
        self.memory = ctypes.create_string_buffer(_SIZE)
        self.pointer = ctypes.byref(self.memory)
        self.words = memoryview(self.memory).cast("B").cast("I")


_registers = _Registers()


def _functions() -> tuple[Callable[..., int], Callable[..., int]] | None:
    """Return C's `fegetenv` and `fesetenv` on platforms whose `fenv_t` we know."""
    if platform.system() != "Linux" or platform.machine() not in _IS_DEFAULT:
        return None
    library = ctypes.PyDLL(None)  # keeps the GIL: releasing it takes longer than the call
    try:
        return library.fegetenv, library.fesetenv
    except AttributeError:
        library = ctypes.PyDLL("libm.so.6")
        return library.fegetenv, library.fesetenv


_known = _functions()
_is_default = _IS_DEFAULT.get(platform.machine(), _arm_is_default)


def enter() -> Environment | None:
    """Set the calling thread's default mode; return the previous mode, or None if unchanged.

    Does nothing except on Linux on x86-64 and aarch64.
    """
    if _known is None:
        return None
    registers = _registers
    _known[0](registers.pointer)
    if _is_default(registers.words):
        return None
    before = ctypes.create_string_buffer(registers.memory.raw, _SIZE)
    _known[1](_DEFAULT)
    return before


def leave(before: Environment | None) -> None:
    """Restore the mode that `enter` returned."""
    if before is not None and _known is not None:
        _known[1](before)


@contextmanager
def default_mode() -> Iterator[None]:
    """Run the block in the default mode, then restore the thread's mode."""
    before = enter()
    try:
        yield
    finally:
        leave(before)


@contextmanager
def kept_mode() -> Iterator[None]:
    """Restore the thread's mode after the block, whatever it loads or calls."""
    if _known is None:
        yield
        return
    before = ctypes.create_string_buffer(_SIZE)
    _known[0](before)
    try:
        yield
    finally:
        _known[1](before)

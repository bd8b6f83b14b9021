"""The floating-point mode of the calling thread: rounding, subnormal numbers, trapped exceptions.

It is not ours: programs set it for themselves, and a library that was compiled with `-ffast-math`
sets it for whoever loads it. Golden outputs were computed in the mode that a process starts with,
and so is everything that is compared with them.
"""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Environment = ctypes.Array[ctypes.c_char]

_SIZE = 64  # of a `fenv_t`, generously: 32 bytes on x86-64, 8 on aarch64
_DEFAULT = ctypes.c_void_p(-1)  # FE_DFL_ENV of glibc and musl


def _x86_is_default(words: memoryview) -> bool:
    # The x87's word without its reserved bits, MXCSR without its flags.
    return words[0] & 0x0F3F == 0x033F and words[7] & 0xFFC0 == 0x1F80


def _arm_is_default(words: memoryview) -> bool:
    return words[0] == 0


_IS_DEFAULT = {"x86_64": _x86_is_default, "aarch64": _arm_is_default}


class _Registers(threading.local):
    """Where a thread's registers are read to, made once for each thread."""

    def __init__(self) -> None:
        self.memory = ctypes.create_string_buffer(_SIZE)
        self.pointer = ctypes.byref(self.memory)
        self.words = memoryview(self.memory).cast("B").cast("I")


_registers = _Registers()


def _functions() -> tuple[Callable[..., int], Callable[..., int]] | None:
    """Return C's `fegetenv` and `fesetenv`, where we know what they read."""
    if platform.system() != "Linux" or platform.machine() not in _IS_DEFAULT:
        return None
    library = ctypes.PyDLL(None)  # keeps Python's lock: giving it up takes longer than the call
    try:
        return library.fegetenv, library.fesetenv
    except AttributeError:
        library = ctypes.PyDLL("libm.so.6")
        return library.fegetenv, library.fesetenv


_known = _functions()
_is_default = _IS_DEFAULT.get(platform.machine(), _arm_is_default)


def enter() -> Environment | None:
    """Give the calling thread the default mode; return the one it had, or None if it was that.

    Elsewhere than on Linux, on x86-64 or aarch64, the mode stays as it is.
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
    """Give the calling thread the mode back that `enter` has returned."""
    if before is not None and _known is not None:
        _known[1](before)


@contextmanager
def default_mode() -> Iterator[None]:
    """Compute in the default mode; then the thread has the mode again that it had."""
    before = enter()
    try:
        yield
    finally:
        leave(before)


@contextmanager
def kept_mode() -> Iterator[None]:
    """Give the thread its mode back, whatever is loaded or called meanwhile."""
    if _known is None:
        yield
        return
    before = ctypes.create_string_buffer(_SIZE)
    _known[0](before)
    try:
        yield
    finally:
        _known[1](before)

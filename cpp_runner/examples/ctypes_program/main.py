"""Runs a policy from Python without torch: the C ABI through ctypes, nothing else.

python main.py libtorchship_c.so moba.pt
"""

import ctypes
import sys
from ctypes import POINTER, byref, c_char_p, c_int32, c_int64, c_size_t, c_void_p

UINT8, FLOAT32 = 1, 11  # of torchship_dtype
OBS = 510


class Tensor(ctypes.Structure):
    """torchship_tensor; a torchship_buffer is the same without strides."""

    _fields_ = (
        ("name", c_char_p),
        ("dtype", c_int32),
        ("rank", c_int32),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("data", c_void_p),
    )


library = ctypes.CDLL(sys.argv[1])
library.torchship_last_message.restype = c_char_p
library.torchship_archive_close.argtypes = [c_void_p]  # a bare integer would be cut to 32 bits
library.torchship_session_close.argtypes = [c_void_p]


def check(status: int) -> None:
    """End with the library's message where a call has failed."""
    if status != 0:
        sys.exit(library.torchship_last_message().decode())


archive, session = c_void_p(), c_void_p()
check(library.torchship_archive_open(sys.argv[2].encode(), None, byref(archive)))
check(library.torchship_session_open(archive, None, byref(session)))

values = (ctypes.c_uint8 * OBS)()
shape = (c_int64 * 2)(1, OBS)
obs = Tensor(b"obs", UINT8, 2, shape, None, ctypes.addressof(values))
for step in range(3):
    values[:] = [step] * OBS
    outputs, count = POINTER(Tensor)(), c_size_t()
    check(
        library.torchship_session_step(
            session, byref(obs), c_size_t(1), byref(outputs), byref(count)
        )
    )
    for output in outputs[: count.value]:
        if output.name == b"value" and output.dtype == FLOAT32:
            value = ctypes.cast(output.data, POINTER(ctypes.c_float))[0]
            print(f"step {step}: value {value:.9g}")

library.torchship_session_close(session)
library.torchship_archive_close(archive)

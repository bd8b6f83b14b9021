"""The C ABI of the installed library (torchship/torchship.h), bound with ctypes for numpy."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from ctypes import POINTER, byref, c_char_p, c_int32, c_int64, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from torchship.cpp_runner.binary import cmake_prefix

OK, MISMATCH, BAD_USAGE, BAD_ARCHIVE, BAD_INPUT = 0, 1, 2, 3, 4

# By torchship_dtype; numpy has no bfloat16.
DTYPES = [
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", None, "float32", "float64",
]  # fmt: skip

Array = np.ndarray[Any, Any]


class Tensor(ctypes.Structure):
    """torchship_tensor."""

    _fields_ = (
        ("name", c_char_p),
        ("dtype", c_int32),
        ("rank", c_int32),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("data", c_void_p),
    )


class Buffer(ctypes.Structure):
    """torchship_buffer."""

    _fields_ = (
        ("name", c_char_p),
        ("dtype", c_int32),
        ("rank", c_int32),
        ("shape", POINTER(c_int64)),
        ("data", c_void_p),
    )


class Options(ctypes.Structure):
    """torchship_options; TORCHSHIP_OPTIONS where nothing is said."""

    _fields_ = (
        ("size", c_size_t),
        ("threads", c_int32),
        ("warm_up", c_int32),
        ("freeze", c_int32),
        ("fusion", c_int32),
        ("device", c_char_p),
        ("trusted_keys", c_char_p),
        ("trusted_keys_pem", c_char_p),
        ("operators", POINTER(c_char_p)),
        ("operator_count", c_size_t),
    )

    def __init__(self, **said: Any) -> None:
        defaults = {"size": ctypes.sizeof(Options), "threads": 1, "device": b"cpu"}
        if (folders := said.get("operators")) is not None and "operator_count" not in said:
            said |= {"operators": (c_char_p * len(folders))(*folders)}
            said |= {"operator_count": len(folders)}
        super().__init__(**defaults | said)


@cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(cmake_prefix() / "lib" / "libtorchship_c.so"))
    loaded.torchship_version.restype = c_char_p
    loaded.torchship_last_message.restype = c_char_p
    outputs = (POINTER(POINTER(Tensor)), POINTER(c_size_t))
    for name, arguments in {
        "archive_open": (c_char_p, POINTER(Options), POINTER(c_void_p)),
        "archive_open_memory": (
            *(c_void_p, c_size_t, c_char_p, c_void_p, c_size_t),
            *(POINTER(Options), POINTER(c_void_p)),
        ),
        "archive_close": (c_void_p,),
        "archive_describe": (c_void_p, POINTER(c_char_p)),
        "archive_verify": (c_void_p,),
        "session_open": (c_void_p, c_char_p, POINTER(c_void_p)),
        "session_close": (c_void_p,),
        "session_run": (c_void_p, POINTER(Tensor), c_size_t, *outputs),
        "session_step": (c_void_p, POINTER(Tensor), c_size_t, *outputs),
        "session_run_into": (c_void_p, POINTER(Tensor), c_size_t, POINTER(Buffer), c_size_t),
        "session_step_into": (c_void_p, POINTER(Tensor), c_size_t, POINTER(Buffer), c_size_t),
        "session_reset": (c_void_p,),
        "session_reset_rows": (c_void_p, POINTER(c_int64), c_size_t),
        "session_save_state": (c_void_p, POINTER(c_void_p), POINTER(c_size_t)),
        "session_load_state": (c_void_p, c_void_p, c_size_t),
    }.items():
        getattr(loaded, f"torchship_{name}").argtypes = arguments
    return loaded


class Failure(Exception):
    """A status that is not OK, with this thread's message."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.message: str = library().torchship_last_message().decode()
        super().__init__(f"{status}: {self.message}")


def check(status: int) -> None:
    if status != OK:
        raise Failure(status)


def given(name: str, array: Array) -> Tensor:
    """An input over the array's own memory. Whoever calls it keeps the array."""
    rank = array.ndim
    shape = (c_int64 * rank)(*array.shape)
    strides = (c_int64 * rank)(*(step // array.itemsize for step in array.strides))
    dtype = DTYPES.index(array.dtype.name)
    return Tensor(name.encode(), dtype, rank, shape, strides, array.ctypes.data)


def room(name: str, array: Array) -> Buffer:
    """The array's own memory as room for an output. Whoever calls it keeps the array."""
    assert array.flags.c_contiguous
    shape = (c_int64 * array.ndim)(*array.shape)
    dtype = DTYPES.index(array.dtype.name)
    return Buffer(name.encode(), dtype, array.ndim, shape, array.ctypes.data)


def taken(tensor: Tensor) -> Array:
    """An output over the session's memory: valid until its next call."""
    dtype = np.dtype(DTYPES[tensor.dtype])
    shape = tuple(tensor.shape[i] for i in range(tensor.rank))
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = (ctypes.c_char * size).from_address(tensor.data) if size else b""
    assert not tensor.strides, "outputs are contiguous"
    return np.frombuffer(buffer, dtype).reshape(shape)


class Archive:
    """torchship_archive, closed with this object."""

    def __init__(
        self, source: Path | bytes, options: Options | None = None, signature: bytes | None = None
    ) -> None:
        """Open a file, or the bytes of one."""
        self.handle = c_void_p()
        last = (byref(options) if options else None, byref(self.handle))
        if isinstance(source, Path):
            check(library().torchship_archive_open(str(source).encode(), *last))
        else:
            signed = (signature, len(signature or b""))
            opened = library().torchship_archive_open_memory
            check(opened(source, len(source), b"game.pak", *signed, *last))

    def __del__(self) -> None:
        library().torchship_archive_close(self.handle)

    def describe(self) -> Any:
        text = c_char_p()
        check(library().torchship_archive_describe(self.handle, byref(text)))
        assert text.value
        return json.loads(text.value)

    def verify(self) -> None:
        check(library().torchship_archive_verify(self.handle))


class Session:
    """torchship_session, closed with this object."""

    def __init__(self, archive: Archive, method: str | None = None) -> None:
        self.handle = c_void_p()
        name = method.encode() if method else None
        check(library().torchship_session_open(archive.handle, name, byref(self.handle)))

    def __del__(self) -> None:
        library().torchship_session_close(self.handle)

    def lent(self, function: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs of a call as the library lends them."""
        array = (Tensor * len(inputs))(*inputs)
        outputs, count = POINTER(Tensor)(), c_size_t()
        call = getattr(library(), f"torchship_session_{function}")
        check(call(self.handle, array, len(inputs), byref(outputs), byref(count)))
        return [outputs[i] for i in range(count.value)]

    def fill(self, function: str, inputs: Mapping[str, Array], out: Sequence[Buffer]) -> None:
        """A call whose outputs go into `out`."""
        array = (Tensor * len(inputs))(*(given(name, value) for name, value in inputs.items()))
        call = getattr(library(), f"torchship_session_{function}_into")
        check(call(self.handle, array, len(inputs), (Buffer * len(out))(*out), len(out)))

    def _call(self, function: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        lent = self.lent(function, [given(name, array) for name, array in inputs.items()])
        return {tensor.name.decode(): taken(tensor).copy() for tensor in lent}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self._call("run", inputs)

    def step(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self._call("step", inputs)

    def reset(self) -> None:
        check(library().torchship_session_reset(self.handle))

    def reset_rows(self, rows: Sequence[int]) -> None:
        array = (c_int64 * len(rows))(*rows)
        check(library().torchship_session_reset_rows(self.handle, array, len(rows)))

    def save_state(self) -> bytes:
        data, size = c_void_p(), c_size_t()
        check(library().torchship_session_save_state(self.handle, byref(data), byref(size)))
        assert data.value
        return ctypes.string_at(data.value, size.value)

    def load_state(self, state: bytes) -> None:
        check(library().torchship_session_load_state(self.handle, state, len(state)))

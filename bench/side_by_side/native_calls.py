"""Calls of compiled code, timed from C: what a C program that links the model would see."""

from __future__ import annotations

import ctypes
import json
import statistics
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from torchship.native.building.toolchain import compiler
from torchship.script.format.manifest import Method
from torchship.script.format.tree import Flat
from torchship.script.runtime.program import check_inputs

SOURCE = Path(__file__).with_name("harness.c")
SAMPLE_US = 20.0  # a sample of very short calls covers several
FEWEST, MOST = 3, 1 << 16
MESSAGE_BYTES = 4096


def build_harness(folder: Path) -> ctypes.CDLL:
    """Compile harness.c and load it."""
    target = folder / "harness.so"
    command = [compiler(), "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(target)]
    subprocess.run(command, check=True)
    harness = ctypes.CDLL(str(target))
    harness.time_calls.restype = ctypes.c_int64
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    harness.time_calls.argtypes = [
        *(pointer, pointer, pointer, pointer, number, ctypes.c_double, pointer, number, number)
    ]
    return harness


@dataclass(frozen=True)
class NativeCall:
    """One method with its inputs, outputs and workspace in memory."""

    function: Any
    given: Any
    results: Any
    workspace: torch.Tensor
    kept: tuple[object, ...]  # what the structs point to
    outputs: Flat
    message: Any

    def run(self) -> Flat:
        """Call the method once.

        Raises:
            RuntimeError: the model refuses the inputs.
        """
        workspace = self.workspace.data_ptr()
        if self.function(None, ctypes.addressof(self.given), ctypes.addressof(self.results),
                         workspace):  # fmt: skip
            raise RuntimeError(self.message.value.decode(errors="replace"))
        return self.outputs

    def median_us(self, harness: ctypes.CDLL, seconds: float) -> float:
        """Return the median duration of a call in microseconds, called from C."""
        once = self._samples(harness, 1, 0.0)
        repeats = max(1, int(SAMPLE_US / max(0.01, min(once))))
        return statistics.median(self._samples(harness, repeats, seconds))

    def _samples(self, harness: ctypes.CDLL, repeats: int, seconds: float) -> list[float]:
        samples = (ctypes.c_double * MOST)()
        count = harness.time_calls(
            ctypes.cast(self.function, ctypes.c_void_p),
            *(ctypes.addressof(self.given), ctypes.addressof(self.results)),
            *(self.workspace.data_ptr(), repeats, seconds),
            *(ctypes.addressof(samples), FEWEST, MOST),
        )
        if count < 0:
            raise RuntimeError(self.message.value.decode(errors="replace"))
        return list(samples[:count])


def native_call(path: Path, method: str, signature: Method, inputs: Flat) -> NativeCall:
    """Return a call of a compiled library's method with these inputs; others are left out."""
    library = ctypes.CDLL(str(path))
    library.torchship_native_info.restype = ctypes.c_char_p
    info = json.loads(library.torchship_native_info())
    known, prefix = info["methods"][method], f"{info['prefix']}_{method}"
    symbols = check_inputs(signature, inputs)
    plain = {name: tensor.contiguous() for name, tensor in inputs.items()}
    given = (ctypes.c_int64 * len(known["inputs"]))(
        *(_word(field, plain, symbols) for field in known["inputs"])
    )
    address = ctypes.addressof(given)
    outputs: Flat = {}
    for number, field in enumerate(known["outputs"]):
        shape = (ctypes.c_int64 * max(1, field["rank"]))()
        library[f"{prefix}_shape"](
            ctypes.c_void_p(address), number, ctypes.c_void_p(ctypes.addressof(shape))
        )
        dtype = getattr(torch, field["dtype"])
        outputs[field["leaf"]] = torch.empty(list(shape)[: field["rank"]], dtype=dtype)
    message = ctypes.create_string_buffer(MESSAGE_BYTES)
    results = (ctypes.c_int64 * (len(outputs) + 2))(
        *(tensor.data_ptr() for tensor in outputs.values()),
        *(ctypes.addressof(message), MESSAGE_BYTES),
    )
    size = library[f"{prefix}_workspace_size"]
    size.restype, size.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    workspace = torch.empty(size(address), dtype=torch.uint8)
    function = library[prefix]
    function.argtypes = [ctypes.c_void_p] * 4
    return NativeCall(
        function, given, results, workspace, (library, plain, message), outputs, message
    )


def _word(field: Mapping[str, Any], inputs: Flat, symbols: Mapping[str, int]) -> int:
    leaf, kind = field["leaf"], field["kind"]
    if kind == "size":
        return symbols.get(leaf, 0)
    if kind == "tensor":
        return inputs[leaf].data_ptr() if leaf in inputs else 0
    raise ValueError(f"input '{leaf}' is a number, which no model that is measured here has")

"""The wasm runtime of `verify`: golden cases through the WebAssembly module, in node."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from torchship.native.building.wasm import build_wasm
from torchship.native.compiler import Code, compile_archive
from torchship.native.emitting import javascript
from torchship.native.errors import CompilerMissingError, NativeError
from torchship.native.ir.dtypes import NAMES, TORCH
from torchship.script.errors import InputError, ModelError
from torchship.script.exporting.runtimes import Result
from torchship.script.format.manifest import Manifest
from torchship.script.format.nodes import ScalarNode, leaves
from torchship.script.format.plain_tensors import plain
from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.batch import batch_inputs
from torchship.script.runtime.error_bound import check_case
from torchship.script.runtime.program import check_inputs

ANSWER = Path(__file__).resolve().parent.parent / "web" / "answer.mjs"
ROUNDS = 300


def write_module(code: Code, folder: Path, name: str) -> list[Path]:
    """Write NAME.wasm, NAME.mjs and NAME.d.ts into a folder; return their paths.

    Raises:
        CompilerMissingError: there is no compiler for WebAssembly.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / f"{code.prefix}.c"
        source.write_text(code.source)
        (Path(scratch) / f"{code.prefix}.h").write_text(code.header)
        build_wasm(code, source, folder / f"{name}.wasm")
    (folder / f"{name}.mjs").write_text(javascript.module(code.unit, name))
    (folder / f"{name}.d.ts").write_text(javascript.types(code.unit))
    return [folder / f"{name}{suffix}" for suffix in (".wasm", ".mjs", ".d.ts")]


class NodeProcess:
    """A module loaded in node, called with named tensors."""

    def __init__(self, module: Path, manifest: Manifest) -> None:
        """Start node.

        Raises:
            CompilerMissingError: there is no node.
        """
        node = shutil.which("node") or shutil.which("nodejs")
        if node is None:
            raise CompilerMissingError("there is no node: install it, as Debian's package nodejs")
        self._manifest = manifest
        self._process = subprocess.Popen(
            [node, str(ANSWER), str(module.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def call(self, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        """Run a method.

        Raises:
            InputError: the inputs do not fit the signature.
            ModelError: the model raised.
        """
        answer = self._ask(method, inputs, 1)
        return {
            name: _tensor(entry).reshape(entry["shape"])
            for name, entry in answer["outputs"].items()
        }

    def microseconds(self, method: str, inputs: Mapping[str, torch.Tensor]) -> float:
        """Return the median duration of a call inside node."""
        self._ask(method, inputs, ROUNDS)
        return float(self._ask(method, inputs, ROUNDS)["nanoseconds"]) / 1000

    def selftest(self) -> tuple[int, str]:
        """Run the module's own golden cases; return how many outputs differ, and its text."""
        answer = self._exchange({"selftest": True})
        return int(answer["differing"]), str(answer["text"])

    def _ask(self, method: str, inputs: Mapping[str, torch.Tensor], rounds: int) -> dict[str, Any]:
        signature = self._manifest.methods[method]
        sizes = check_inputs(signature, inputs)
        scalars = {
            leaf.name
            for argument in signature.inputs
            for leaf in leaves(argument.value)
            if isinstance(leaf, ScalarNode)
        }
        given: dict[str, object] = {}
        for name, tensor in inputs.items():
            if name not in scalars:
                given[name] = _entry(tensor)
            else:  # a whole number as text, since JSON's are rounded in JavaScript
                given[name] = float(tensor) if tensor.is_floating_point() else str(int(tensor))
        return self._exchange({"method": method, "inputs": given, "sizes": sizes, "rounds": rounds})

    def _exchange(self, request: Mapping[str, object]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            _, errors = self._process.communicate()
            told = errors.decode(errors="replace").splitlines()
            lines = [text for text in told if "Error" in text]
            raise NativeError(f"node ended: {lines[0] if lines else 'no message'}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            if answer["kind"] == "ModelError":
                raise ModelError(f"model '{self._manifest.name}' raised: {answer['error']}")
            raise InputError(str(answer["error"]))
        return answer


def _entry(tensor: torch.Tensor) -> dict[str, str]:
    whole = plain(tensor).contiguous()
    data = whole.reshape(-1).view(torch.uint8).numpy().tobytes() if whole.numel() else b""
    return {"dtype": NAMES[tensor.dtype], "base64": base64.b64encode(data).decode()}


def _tensor(entry: Mapping[str, Any]) -> torch.Tensor:
    data = bytearray(base64.b64decode(entry["base64"]))
    dtype = TORCH[entry["dtype"]]
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


class WasmRuntime:
    """The archive compiled to WebAssembly, in node."""

    name = "wasm"

    def check(self, archive: Archive) -> Result:
        """Compile the archive, run the golden cases in node, and compare.

        Raises:
            UnsupportedError: an operator has no C.
            CompilerMissingError: there is no compiler for WebAssembly, or no node.
        """
        manifest = archive.require_manifest()
        in_float64 = archive.float64_outputs
        with tempfile.TemporaryDirectory() as name:
            paths = write_module(compile_archive(archive, golden=False), Path(name), "model")
            with NodeProcess(paths[1], manifest) as node:
                differences = [
                    difference
                    for number, case in enumerate(archive.golden)
                    for difference in check_case(manifest, number, case, node.call, in_float64)
                ]
                method, inputs = batch_inputs(manifest, archive.golden, 1)
                return Result(self.name, differences, node.microseconds(method, inputs))

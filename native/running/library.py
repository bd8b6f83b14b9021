"""A compiled library in this process, called with named tensors."""

from __future__ import annotations

import _ctypes
import ctypes
import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from torchship.native.errors import NativeError
from torchship.native.running.calls import Memory, MethodCalls, RaisedError
from torchship.script.errors import ModelError
from torchship.script.format.manifest import Manifest
from torchship.script.format.plain_tensors import plain
from torchship.script.format.tree import Flat
from torchship.script.runtime.program import check_inputs, method_of


class Library:
    """The methods of a compiled archive, mapped into memory for as long as this object lives.

    Calls are thread-safe, and release the GIL. Each thread has a workspace of its own.
    """

    def __init__(self, path: Path, manifest: Manifest, digest: str) -> None:
        """Load the library at `path`, which must have been compiled from the archive.

        Raises:
            NativeError: it cannot be loaded, belongs to another archive, or an argument has a
                default that it does not know.
        """
        try:
            library = ctypes.CDLL(str(path.resolve()))
            weakref.finalize(self, _ctypes.dlclose, library._handle).atexit = False
            tell = library.torchship_native_info
        except (OSError, AttributeError) as error:
            raise NativeError(
                f"'{path.name}' is no library that torchship compiled: {error}"
            ) from None
        tell.restype = ctypes.c_char_p
        info: dict[str, Any] = json.loads(tell())
        if info["archive"] != digest:
            raise NativeError(
                f"'{path.name}' was compiled from another archive: expected the digest "
                f"{digest[:16]}…, got {info['archive'][:16]}…; compile it again"
            )
        self.manifest = manifest
        memory = Memory()
        self._methods = {
            name: MethodCalls(
                library, f"{info['prefix']}_{name}", known, manifest.methods[name], memory
            )
            for name, known in info["methods"].items()
        }

    def call(self, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        """Check the inputs, run the method and return its named outputs, which are the caller's.

        A missing state input gets the initial value of the manifest.

        Raises:
            InputError: there is no such method, or the inputs do not fit its signature.
            ModelError: the model raised.
        """
        symbols = check_inputs(method_of(self.manifest, method), inputs)
        given = {name: plain(value) for name, value in inputs.items()}
        outputs = self.run(method, given, symbols)
        return {name: output.clone() for name, output in outputs.items()}

    def run(
        self, method: str, inputs: Mapping[str, torch.Tensor], symbols: Mapping[str, int]
    ) -> Flat:
        """Run the method on checked CPU tensors; `symbols` is the result of `check_inputs`.

        Small outputs are valid until the thread's next call of the method only.

        Raises:
            InputError: an input is missing.
            ModelError: the model raised.
        """
        try:
            return self._methods[method].run(inputs, symbols)
        except RaisedError as error:
            raise ModelError(
                f"model '{self.manifest.name}' method '{method}' raised: {error}"
            ) from None

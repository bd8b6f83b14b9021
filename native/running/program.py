"""An archive's compiled code behind the interface of a loaded program."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from torchship.native.running.library import Library
from torchship.script.format.manifest import Method
from torchship.script.format.tree import Flat
from torchship.script.runtime import floating_point
from torchship.script.runtime.program import method_of


class NativeProgram:
    """A library that is called like `Program`, with the same errors. Calls are thread-safe."""

    def __init__(self, library: Library) -> None:
        """Take a library; inputs and outputs are on the CPU."""
        self.manifest = library.manifest
        self._library = library

    def method(self, name: str) -> Method:
        """Return a method's signature.

        Raises:
            InputError: there is no such method.
        """
        return method_of(self.manifest, name)

    def call(self, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        """Check the inputs, run the method and return its named outputs, which are the caller's.

        A missing state input gets the initial value of the manifest.

        Raises:
            InputError: the inputs do not fit the signature; nothing was run.
            ModelError: the model raised.
        """
        with floating_point.default_mode():
            return self._library.call(method, inputs)

    def run(
        self, method: str, inputs: Mapping[str, torch.Tensor], symbols: Mapping[str, int]
    ) -> Flat:
        """Run the method on checked inputs; `symbols` is the result of `check_inputs`.

        The outputs are valid until the thread's next call of the method only.

        Raises:
            InputError: an input is missing.
            ModelError: the model raised.
        """
        mode = floating_point.enter()
        try:
            return self._library.run(method, inputs, symbols)
        finally:
            if mode is not None:
                floating_point.leave(mode)

"""Programs whose calls a test watches, holds or replaces, for `Engine(load=...)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from torchship.script.format.tree import Flat
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.program import Program

Run = Callable[[], Flat]
Around = Callable[[Run, str, Mapping[str, torch.Tensor]], Flat]
"""Gets a function that makes the call, the method and the inputs; returns the outputs."""


class LoadedProgram(Program):
    """What an archive holds, called through `around` if there is one."""

    def __init__(self, program: Program, loader: Loader) -> None:
        super().__init__(program.manifest, program.module)
        self._loader = loader

    def run(
        self, method: str, inputs: Mapping[str, torch.Tensor], symbols: Mapping[str, int]
    ) -> Flat:
        def plain() -> Flat:
            instead = self._loader.instead
            if instead is not None:
                return Program(self.manifest, instead).run(method, inputs, symbols)
            return super(LoadedProgram, self).run(method, inputs, symbols)

        around = self._loader.around
        return plain() if around is None else around(plain, method, inputs)


class Loader:
    """Loads programs; `around` and `instead` may be set at any time, also when they are loaded."""

    def __init__(self, around: Around | None = None) -> None:
        self.around = around
        self.instead: torch.nn.Module | None = None
        """A module that runs in place of the archive's."""

    def load(self, archive: Archive, device: str) -> Program:
        return LoadedProgram(archive.program(device), self)

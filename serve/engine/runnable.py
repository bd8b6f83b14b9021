"""What an engine runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import torch

from torchship.script.format.tree import Flat

Runtime = Literal["libtorch", "native"]


class Runnable(Protocol):
    """An archive that was loaded: by LibTorch (`Program`), or as compiled code."""

    def call(self, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        """Do as `Program.call`."""
        ...

    def run(
        self, method: str, inputs: Mapping[str, torch.Tensor], symbols: Mapping[str, int]
    ) -> Flat:
        """Do as `Program.run`; the outputs may change when the thread calls again."""
        ...

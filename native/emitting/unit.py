"""What is written: methods that are ready, their weights and golden cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchship.native.importing.method import Interface
from torchship.native.ir.program import Method, Storage, walk
from torchship.native.passes.memory import Plan
from torchship.script.format.golden import Case
from torchship.script.format.manifest import Method as Signature


@dataclass(frozen=True)
class CompiledMethod:
    """A method that is ready to be written."""

    program: Method
    interface: Interface
    plan: Plan
    piece: int
    """How many rows of a batch are computed at a time; 0 if they are not split."""


@dataclass(frozen=True)
class Unit:
    """What one pair of files holds."""

    prefix: str
    title: str
    digest: str
    methods: Sequence[CompiledMethod]
    signatures: Mapping[str, Signature]
    cases: Sequence[Case] = ()
    """The golden cases that `<prefix>_selftest` runs; none if it is left out."""
    weights_apart: bool = False
    """Whether the weights are in a file of their own, which callers give to the code."""

    @property
    def weights(self) -> list[Storage]:
        """The weights that some method reads, in order."""
        found: dict[Storage, None] = {}
        for method in self.methods:
            for statement in walk(method.program.statements):
                for view in (*statement.reads(), *statement.writes()):
                    if view.storage.kind == "weight":
                        found[view.storage] = None
        return list(found)

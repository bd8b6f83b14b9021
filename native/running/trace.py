"""Compares compiled code with TorchScript at every tensor that the model's source gives a name.

`verify` says that an output differs; this says where the values part. The tensors are those outside
of loops and branches. Both sides get the same inputs in every step of a golden case, so what one
step gets wrong does not hide what the next one does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torchship.native.building.cache import cached_library
from torchship.native.compiler import compile_archive
from torchship.native.importing.graph import debug_name, named_tensors, source_line
from torchship.native.running.library import Library
from torchship.script.format.golden import Case, run_case
from torchship.script.format.nodes import leaves
from torchship.script.format.tree import Flat, flatten
from torchship.script.runtime import floating_point, torchscript_graph
from torchship.script.runtime.archive import Archive
from torchship.script.runtime.program import arguments_of, check_inputs, initial_state

SHARE = 1e-4
"""How far floats may be apart, as a share of the largest one of their tensor."""


@dataclass(frozen=True)
class Intermediate:
    """A tensor on the way to the outputs, where the two differ most."""

    method: str
    name: str
    where: str
    """The line of the model's source, as `file.py:line`."""
    operator: str
    shape: tuple[int, ...]
    case: str
    difference: float
    """The largest absolute difference; infinite if shapes or non-finite numbers differ."""
    largest: float
    """The largest absolute value that TorchScript has there."""
    agreed: bool


def trace(archive: Archive) -> list[Intermediate]:
    """Run the golden cases in TorchScript and in code that keeps its intermediates; compare these.

    They come in the order in which they are computed, method by method. What the compiler does not
    compute as a tensor of its own is left out.

    Raises:
        UnsupportedError: an operator has no C.
        CompilerMissingError: there is no C compiler.
    """
    library = Library(
        cached_library(compile_archive(archive, trace=True)),
        archive.require_manifest(),
        archive.digest,
    )
    found: list[Intermediate] = []
    for name in archive.require_manifest().methods:
        both = _Both(archive, name, library)
        for case in archive.golden:
            if case.method == name:
                both.run(case)
        found += [both.worst[number] for number in sorted(both.worst)]
    return found


class _Both:
    """One method in TorchScript and as compiled code."""

    def __init__(self, archive: Archive, name: str, library: Library) -> None:
        module = archive.load()
        graph = torchscript_graph.inlined_graph(module, name)
        values = named_tensors(graph)
        self._places = list(_places(values))
        self._run = torchscript_graph.with_intermediates(module, name, graph, values)
        self._library = library
        self._name = name
        self._method = archive.require_manifest().methods[name]
        self._outputs = {leaf.name for leaf in leaves(self._method.outputs)}
        self.worst: dict[int, Intermediate] = {}
        """Where the two differ most, by the number of the tensor."""

    def run(self, case: Case) -> None:
        """Run the steps of a golden case."""
        run_case(lambda _, inputs: self._call(case.name, inputs), self._method, case)

    def _call(self, case: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        """Call both with the same inputs; return the outputs of TorchScript."""
        symbols = check_inputs(self._method, inputs)
        given = {**inputs, **initial_state(self._method, inputs, symbols)}
        with floating_point.default_mode():
            made = self._library.call(self._name, given)
            result, wanted = self._run(arguments_of(self._method, given))
        for leaf in made.keys() - self._outputs:
            number = int(leaf.split(".")[1])
            found = self._compare(number, case, made[leaf], wanted[number])
            if number not in self.worst or _badness(found) > _badness(self.worst[number]):
                self.worst[number] = found
        return flatten(self._method.outputs, result)

    def _compare(
        self, number: int, case: str, made: torch.Tensor, wanted: torch.Tensor
    ) -> Intermediate:
        name, where, operator = self._places[number]
        difference, largest = _difference(made, wanted)
        agreed = difference <= (SHARE * largest if wanted.is_floating_point() else 0)
        shape = tuple(wanted.shape)
        return Intermediate(
            *(self._name, name, where, operator, shape, case, difference, largest, agreed)
        )


def _places(values: Sequence[Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the name, source line and operator of values; a node without a line is at the last."""
    where = ""
    for value in values:
        where = source_line(value.node()) or where
        yield debug_name(value), where, value.node().kind().partition("::")[2]


def _badness(found: Intermediate) -> tuple[bool, float]:
    """Return by what the differences of one tensor in several calls are ordered."""
    return (not found.agreed, found.difference)


def _difference(made: torch.Tensor, wanted: torch.Tensor) -> tuple[float, float]:
    """Return the largest absolute difference, and the largest finite absolute value wanted."""
    a, b = made.double(), wanted.double()
    finite = b.isfinite()
    largest = float(b[finite].abs().max()) if finite.any() else 0.0
    if a.shape != b.shape or not torch.equal(a[~finite].nan_to_num(), b[~finite].nan_to_num()):
        return math.inf, largest
    if not finite.any():
        return 0.0, largest
    difference = float((a[finite] - b[finite]).abs().max())
    return (math.inf if math.isnan(difference) else difference), largest

"""Golden cases: the inputs and the eager module's outputs that every runtime must reproduce."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import safetensors.torch
import torch
from safetensors import SafetensorError

from torchship.script.errors import ArchiveError
from torchship.script.format.manifest import GoldenEntry, Method
from torchship.script.format.plain_tensors import contiguous_copy
from torchship.script.format.tree import Flat


@dataclass(frozen=True)
class Step:
    """One call: its inputs and its expected outputs, by flat name."""

    inputs: Flat
    outputs: Flat = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A named sequence of calls of one method; each step's state feeds the next step."""

    name: str
    method: str
    steps: tuple[Step, ...]

    @property
    def nbytes(self) -> int:
        """The size of all its tensors in bytes."""
        tensors = (
            value
            for step in self.steps
            for value in (*step.inputs.values(), *step.outputs.values())
        )
        return sum(tensor.nbytes for tensor in tensors)


def to_safetensors(cases: Sequence[Case]) -> bytes:
    """Return the golden record: tensors `<case>/<step>/in/<name>` and `…/out/<name>`."""
    tensors = {}
    for number, case in enumerate(cases):
        for index, step in enumerate(case.steps):
            for side, flat in (("in", step.inputs), ("out", step.outputs)):
                for name, tensor in flat.items():
                    # A copy: safetensors refuses tensors that share memory.
                    tensors[f"{number}/{index}/{side}/{name}"] = contiguous_copy(tensor)
    return safetensors.torch.save(tensors)


def from_safetensors(
    data: bytes, entries: Sequence[GoldenEntry], methods: Mapping[str, Method]
) -> list[Case]:
    """Read the golden record.

    Raises:
        ArchiveError: the record is damaged or does not match the manifest.
    """
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArchiveError(f"the golden record is not safetensors: {error}") from None
    found: dict[tuple[int, int, str], Flat] = {}
    for key, tensor in sorted(tensors.items()):  # safetensors returns them in any order
        parts = key.split("/", 3)
        if len(parts) != 4 or not parts[0].isdecimal() or not parts[1].isdecimal():
            raise ArchiveError(
                f"the golden record has a tensor '{key}': expected case/step/in/name"
            )
        # A copy has the allocator's alignment, on which the rounding of some kernels depends.
        found.setdefault((int(parts[0]), int(parts[1]), parts[2]), {})[parts[3]] = tensor.clone()
    state = {name: {entry.input for entry in method.state} for name, method in methods.items()}
    cases = []
    for number, entry in enumerate(entries):
        steps = []
        for index in range(entry.steps):
            outputs = found.pop((number, index, "out"), None)
            if not outputs:
                raise ArchiveError(
                    f"golden case {number} ('{entry.name}') has no outputs for step {index}"
                )
            steps.append(Step(found.pop((number, index, "in"), {}), outputs))
            late = set(steps[-1].inputs) & state.get(entry.method, set()) if index else set()
            if late:
                raise ArchiveError(
                    f"golden tensor '{number}/{index}/in/{late.pop()}': only step 0 holds state"
                )
        cases.append(Case(entry.name, entry.method, tuple(steps)))
    if found:
        number, index, side = next(iter(found))
        raise ArchiveError(
            f"the golden record holds '{number}/{index}/{side}', which no golden case names"
        )
    return cases


Call = Callable[[str, Mapping[str, torch.Tensor]], Flat]


def run_case(call: Call, method: Method, case: Case) -> list[Flat]:
    """Run a case's steps through `call(method, inputs)`, passing on state; return the outputs."""
    results: list[Flat] = []
    for step in case.steps:
        inputs = dict(step.inputs)
        if results:
            inputs |= {
                state.input: results[-1][state.output]
                for state in method.state
                if state.output in results[-1]
            }
        results.append(call(case.method, inputs))
    return results

"""What scoring needs to know of a method: the value of each input and output in one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from torchship.score.errors import RunError
from torchship.script.format.dtypes import BY_NAME
from torchship.script.format.manifest import Manifest, Method
from torchship.script.format.nodes import (
    Dimension,
    Leaf,
    ScalarNode,
    TensorNode,
    leaves,
    omissible,
    shape_text,
)
from torchship.script.format.tree import SCALAR_DTYPES, matches
from torchship.script.runtime.batch import BATCH
from torchship.script.runtime.output_check import sizes_follow_from_shapes
from torchship.script.runtime.program import method_of


@dataclass(frozen=True)
class Input:
    """One input of a method, as a row of a table has it."""

    name: str
    dtype: str
    """The manifest's name; of a number that is no tensor, that of its tensor; "" for text."""
    row_shape: tuple[Dimension, ...]
    """Of one row: without the batch."""
    axis: int | None
    """Where the batch is in the tensor; None if the input is not batched."""
    required: bool

    @property
    def is_text(self) -> bool:
        """Whether the input is a string."""
        return not self.dtype

    def in_columns(self, columns: Sequence[str]) -> list[Input]:
        """Return the inputs that this is, of a table: one for each name that `*` stands for."""
        if "*" not in self.name:
            return [self]
        names = [name for name in columns if matches(self.name, name)]
        return [replace(self, name=name, required=False) for name in names]

    def __str__(self) -> str:
        text = f"{self.dtype}{shape_text(self.row_shape)}" if self.row_shape else self.dtype
        return f"'{self.name}' ({text or 'text'})"


@dataclass(frozen=True)
class Output:
    """One output of a method, as a row of the result has it."""

    name: str
    dtype: str
    row_shape: tuple[Dimension, ...]
    axis: int | None

    @property
    def fixed(self) -> bool:
        """Whether all rows have values of one shape."""
        return all(isinstance(size, int) for size in self.row_shape)


class ScoredMethod:
    """A method of an archive whose inputs and outputs are to be columns."""

    def __init__(self, manifest: Manifest, name: str) -> None:
        """Take the method of a name.

        Raises:
            InputError: there is no such method.
            RunError: the number of its outputs is not fixed.
        """
        self.manifest = manifest
        self.name = name
        self.signature = method_of(manifest, name)
        states = {state.input for state in self.signature.state}
        self.inputs = [
            _input(leaf, required=leaf not in free and leaf.name not in states)
            for argument in self.signature.inputs
            for free in [list(omissible(argument.value, argument.required))]
            for leaf in leaves(argument.value)
        ]
        self.outputs = [_output(leaf) for leaf in leaves(self.signature.outputs)]
        starred = next((output.name for output in self.outputs if "*" in output.name), None)
        if starred is not None:
            raise RunError(
                f"method '{name}' has the outputs '{starred}', whose number is not fixed: they "
                "cannot be columns"
            )

    def input(self, name: str) -> Input | None:
        """Return the input of a flat name; None if there is none."""
        found = next((one for one in self.inputs if matches(one.name, name)), None)
        return found and replace(found, name=name)

    def row_bytes(self) -> int:
        """Return the bytes of a row, at least 1; sizes that vary count as one element."""
        values: list[Input | Output] = [*self.inputs, *self.outputs]
        row = sum(
            BY_NAME[leaf.dtype].size * prod(s for s in leaf.row_shape if isinstance(s, int))
            for leaf in values
            if leaf.dtype
        )
        return max(row, 1)


def is_batched(signature: Method) -> bool:
    """Return whether a call of several rows gives each its own outputs.

    The batch is then in every output, once, and no output's size depends on values.
    """
    shapes = [
        leaf.shape
        for node in (*(argument.value for argument in signature.inputs), signature.outputs)
        for leaf in leaves(node)
        if isinstance(leaf, TensorNode)
    ]
    outputs = [leaf for leaf in leaves(signature.outputs) if isinstance(leaf, TensorNode)]
    inputs = [leaf for argument in signature.inputs for leaf in leaves(argument.value)]
    return (
        any(isinstance(leaf, TensorNode) and BATCH in leaf.shape for leaf in inputs)
        and all(BATCH in leaf.shape for leaf in outputs)
        and all(shape.count(BATCH) <= 1 for shape in shapes)
        and sizes_follow_from_shapes(signature)
    )


def _without_batch(shape: tuple[Dimension, ...]) -> tuple[tuple[Dimension, ...], int | None]:
    if BATCH not in shape:
        return shape, None
    axis = shape.index(BATCH)
    return (*shape[:axis], *shape[axis + 1 :]), axis


def _input(leaf: Leaf, required: bool) -> Input:
    if isinstance(leaf, ScalarNode):
        dtype = "" if leaf.kind == "str" else str(SCALAR_DTYPES[leaf.kind]).removeprefix("torch.")
        return Input(leaf.name, dtype, (), None, required)
    shape, axis = _without_batch(leaf.shape)
    return Input(leaf.name, leaf.dtype, shape, axis, required)


def _output(leaf: Leaf) -> Output:
    assert isinstance(leaf, TensorNode), "the manifest has been checked: outputs are tensors"
    shape, axis = _without_batch(leaf.shape)
    return Output(leaf.name, leaf.dtype, shape, axis)

"""The program between a graph of TorchScript and C: storages, views, and statements upon them.

A method is a list of statements. Each reads and writes views of storages; nothing else holds tensor
data. Control flow nests: `If` and `Loop` hold lists of statements.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from torchship.native.ir.sizes import Size, simple

Kind = Literal["input", "output", "weight", "temporary", "pointer"]


@dataclass(eq=False)
class Storage:
    """Memory of `count` elements of one dtype.

    `kind` says where it is: a pointer in the struct of inputs or outputs, a weight, a part of the
    workspace (temporary), or a variable that points into another storage (pointer).
    """

    name: str
    dtype: str
    count: Size
    kind: Kind
    value: torch.Tensor | None = None  # a weight's elements, flat
    wish: str = ""  # what a weight is called in the model

    def __repr__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, eq=False)
class View:
    """A tensor in memory: element [i, j, …] is at offset + i * strides[0] + j * strides[1] + …"""

    storage: Storage
    offset: Size
    shape: tuple[Size, ...]
    strides: tuple[Size, ...]

    @property
    def dtype(self) -> str:
        """The dtype of the elements."""
        return self.storage.dtype

    def with_shape(self, shape: Sequence[Size], strides: Sequence[Size]) -> View:
        """Return the view with other axes."""
        return View(self.storage, self.offset, tuple(shape), tuple(strides))

    def expanded(self, shape: Sequence[Size]) -> View:
        """Return the view broadcast to a shape; sizes of 1 get the stride 0, missing axes too."""
        missing = len(shape) - len(self.shape)
        strides: list[Size] = [0] * missing
        for size, wanted, stride in zip(self.shape, shape[missing:], self.strides, strict=True):
            strides.append(0 if size == 1 and wanted != 1 else stride)
        return self.with_shape(shape, strides)

    def same_elements(self, other: View) -> bool:
        """Whether both have the same elements at the same indices, without a doubt."""
        return (
            self.storage is other.storage
            and simple(self.offset - other.offset) == 0
            and len(self.shape) == len(other.shape)
            and all(simple(a - b) == 0 for a, b in zip(self.shape, other.shape, strict=True))
            and all(
                size == 1 or simple(a - b) == 0
                for size, a, b in zip(self.shape, self.strides, other.strides, strict=True)
            )
        )


@dataclass(frozen=True)
class Scalar:
    """A number or truth value that is known when the code runs: an expression in C."""

    kind: Literal["int", "float", "bool"]
    text: str


Constant = int | float | bool


@dataclass(frozen=True)
class Iota:
    """The index along one axis of the iteration, times `step`, plus `start`."""

    axis: int
    start: Size = 0
    step: Size = 1


Operand = View | Scalar | Constant | Iota
"""What an elementwise operation reads; a view has the shape of the iteration."""


@dataclass(eq=False)
class Statement:
    """A step of a method; `where` is the line of the model's source, `note` the operator."""

    where: str = field(default="", kw_only=True)
    note: str = field(default="", kw_only=True)

    def reads(self) -> Iterator[View]:
        """Yield what the statement reads."""
        yield from ()

    def writes(self) -> Iterator[View]:
        """Yield what the statement writes."""
        yield from ()

    def blocks(self) -> tuple[list[Statement], ...]:
        """Return the statements inside."""
        return ()


@dataclass(eq=False)
class Elementwise(Statement):
    """out[i] = operation(operands[i]) for each index i of `out`."""

    out: View
    operation: str
    operands: tuple[Operand, ...]
    compute: str = "float32"
    """The dtype in which the operation is computed; the result is converted to that of `out`."""

    def reads(self) -> Iterator[View]:
        """Yield the operands in memory."""
        yield from (operand for operand in self.operands if isinstance(operand, View))

    def writes(self) -> Iterator[View]:
        """Yield the result."""
        yield self.out


@dataclass(eq=False)
class Fused(Statement):
    """Several elementwise operations over one index space, in one pass over the memory.

    The result of a member is used by later ones from a register; it is stored if others need it.
    """

    members: list[Elementwise]
    stored: list[bool]

    def reads(self) -> Iterator[View]:
        """Yield what no member has made before."""
        made: list[View] = []
        for member in self.members:
            for view in member.reads():
                if not any(view.same_elements(other) for other in made):
                    yield view
            made.append(member.out)

    def writes(self) -> Iterator[View]:
        """Yield the results that are stored."""
        yield from (
            member.out for member, kept in zip(self.members, self.stored, strict=True) if kept
        )


@dataclass(eq=False)
class Call(Statement):
    """A kernel over whole tensors, such as a matrix product; `attributes` are its constants."""

    kernel: str
    outputs: tuple[View, ...]
    inputs: tuple[View, ...]
    attributes: dict[str, object] = field(default_factory=dict)

    def reads(self) -> Iterator[View]:
        """Yield the inputs."""
        yield from self.inputs

    def writes(self) -> Iterator[View]:
        """Yield the outputs."""
        yield from self.outputs


@dataclass(eq=False)
class Define(Statement):
    """A variable of the C code, set once: a scalar, or one element of a tensor."""

    name: str
    kind: Literal["int", "float", "bool"]
    value: Scalar | Constant | View | Size

    def reads(self) -> Iterator[View]:
        """Yield the tensor of the element, if it is one."""
        if isinstance(self.value, View):
            yield self.value


@dataclass(eq=False)
class Declare(Statement):
    """A variable that is assigned in several places; for a tensor, a pointer."""

    name: str
    kind: Literal["int", "float", "bool", "pointer"]
    dtype: str = ""
    storage: Storage | None = None


@dataclass(eq=False)
class Assign(Statement):
    """A declared variable gets a value; a pointer gets the place of a view's first element."""

    name: str
    kind: Literal["int", "float", "bool", "pointer"]
    value: Scalar | Constant | View | Size
    storage: Storage | None = None

    def reads(self) -> Iterator[View]:
        """Yield the view that is read or pointed to."""
        if isinstance(self.value, View):
            yield self.value


@dataclass(eq=False)
class Raise(Statement):
    """The method ends with the model's own message: texts and numbers one after another."""

    parts: tuple[str | Scalar | Size | tuple[Size, ...], ...]


@dataclass(eq=False)
class If(Statement):
    """Runs one of two lists of statements."""

    condition: Scalar
    then: list[Statement]
    otherwise: list[Statement]

    def blocks(self) -> tuple[list[Statement], ...]:
        """Return both branches."""
        return (self.then, self.otherwise)


@dataclass(eq=False)
class Loop(Statement):
    """Runs `body` with index 0, 1, …, `count` - 1, while `condition` (a variable) holds."""

    index: str
    count: Size
    body: list[Statement]
    condition: str = ""

    def blocks(self) -> tuple[list[Statement], ...]:
        """Return the body."""
        return (self.body,)


@dataclass(eq=False)
class Method:
    """A method as statements; `symbols` are the sizes that the caller gives."""

    name: str
    statements: list[Statement]
    inputs: list[Storage]
    outputs: list[Storage]
    temporaries: list[Storage] = field(default_factory=list)


def walk(statements: Sequence[Statement]) -> Iterator[Statement]:
    """Yield all statements, those inside others after them."""
    for statement in statements:
        yield statement
        for block in statement.blocks():
            yield from walk(block)


def touched(statement: Statement) -> Iterator[View]:
    """Yield all views that a statement, or one inside it, reads or writes."""
    for inner in walk([statement]):
        yield from inner.reads()
        yield from inner.writes()

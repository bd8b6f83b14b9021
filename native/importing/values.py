"""What the values of a TorchScript graph are while the compiler runs it.

Numbers, texts, lists and None are known at once or stand for C expressions; tensors are views of
storages, or tensors that are not in memory yet because their reader may not need them there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch

from torchship.native.ir.dtypes import TORCH
from torchship.native.ir.program import Scalar, View
from torchship.native.ir.sizes import Size


@dataclass(frozen=True, eq=False)
class OneHot:
    """one_hot(index, classes), with the axis of classes at `axis`; not in memory."""

    index: View
    classes: int
    axis: int
    dtype: str

    @property
    def shape(self) -> tuple[Size, ...]:
        """The shape of the index with the axis of classes."""
        sizes = list(self.index.shape)
        sizes.insert(self.axis, self.classes)
        return tuple(sizes)


@dataclass(frozen=True, eq=False)
class Concat:
    """cat(parts, axis); not in memory."""

    parts: tuple[View | OneHot | Full, ...]
    axis: int
    dtype: str
    shape: tuple[Size, ...]


@dataclass(frozen=True, eq=False)
class Full:
    """A tensor whose elements are all `value`; not in memory."""

    value: int | float | bool | Scalar | sympy.Expr
    dtype: str
    shape: tuple[Size, ...]

    def __post_init__(self) -> None:
        """Convert a number that is known to the dtype."""
        if isinstance(self.value, bool | int | float):
            converted = torch.tensor(self.value).to(TORCH[self.dtype]).item()
            object.__setattr__(self, "value", converted)


Tensor = View | OneHot | Concat | Full


@dataclass(frozen=True, eq=False)
class Optional:
    """`value` if the C expression `flag` is true, else None."""

    flag: str
    value: object


@dataclass(eq=False)
class ListValue:
    """A list of known length; `home` is the loop in which it was made (see the importer)."""

    items: list[Any]
    home: int


class DictValue(dict[Any, Any]):
    """A dict; `home` is the loop or branch in which it was made (see the importer)."""

    def __init__(self, items: dict[Any, Any], home: int) -> None:
        super().__init__(items)
        self.home = home


@dataclass(eq=False)
class StackedList:
    """A list of tensors of one shape, whose length is known when the code runs.

    Element i is `stacked[i]`, or `stacked[count - 1 - i]` if `reversed`. `stacked` is None as long
    as nothing was appended.
    """

    stacked: View
    count: Size
    reversed: bool = False


@dataclass(frozen=True, eq=False)
class IntegersOf:
    """`tensor.tolist()` of a tensor of one axis: integers that are read when they are asked for."""

    view: View


@dataclass(frozen=True)
class Text:
    """A text with numbers that are known when the code runs."""

    parts: tuple[str | Scalar | Size | tuple[Size, ...], ...]


@dataclass(frozen=True)
class Device:
    """The CPU."""

    type: str = "cpu"


@dataclass(frozen=True, eq=False)
class ModuleValue:
    """A submodule: what `prim::GetAttr` reads from."""

    path: str
    module: object


def is_tensor(value: object) -> bool:
    """Whether the value is a tensor."""
    return isinstance(value, View | OneHot | Concat | Full)


def is_size(value: object) -> bool:
    """Whether the value is an integer, known now or when the code runs; a bool is none."""
    return (isinstance(value, int) and not isinstance(value, bool)) or isinstance(value, sympy.Expr)


def tensors_in(values: Sequence[object]) -> list[Tensor]:
    """Return the tensors among values and inside their lists and tuples."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, View | OneHot | Concat | Full):
            found.append(value)
        elif isinstance(value, ListValue):
            found += tensors_in(value.items)
        elif isinstance(value, tuple):
            found += tensors_in(value)
        elif isinstance(value, Optional):
            found += tensors_in([value.value])
    return found


UNINITIALISED = object()
"""A value of a branch that ends otherwise: nothing reads it."""


def stack_of(value: object) -> StackedList | None:
    """Return the stack that a list has become, if it has."""
    if isinstance(value, StackedList):
        return value
    if (
        isinstance(value, ListValue)
        and len(value.items) == 1
        and isinstance(value.items[0], StackedList)
    ):
        return value.items[0]
    return None


def is_weight(value: Tensor) -> bool:
    """Whether a tensor is a constant."""
    return isinstance(value, View) and value.storage.kind == "weight"


def is_plain(value: object) -> bool:
    """Whether a value is compared by ==, and holds no tensor."""
    return value is None or isinstance(value, bool | int | float | str | Scalar | Device)


def kind_of(value: object) -> str | None:
    """Return the kind of variable that holds a value: int, float, bool; or None."""
    if isinstance(value, bool):
        return "bool"
    if is_size(value):
        return "int"
    if isinstance(value, float):
        return "float"
    return value.kind if isinstance(value, Scalar) else None

"""Values as trees of nodes with named leaves (docs/archive.md, "Values")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from torchship.script.format.dtypes import BY_NAME

MAX_INT = 2**63 - 1

Dimension = Annotated[int, Field(ge=0, le=MAX_INT)] | Annotated[str, Field(min_length=1)] | None


class Room(BaseModel):
    """Base of the manifest's models: immutable, and strict about types and unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TensorNode(Room):
    """A tensor leaf; a shape entry is a size, a symbol, or None for any size."""

    kind: Literal["tensor"] = "tensor"
    name: str = Field(min_length=1)
    dtype: Literal[tuple(BY_NAME)]  # type: ignore[valid-type]
    shape: tuple[Dimension, ...]


class ScalarNode(Room):
    """A Python number or string leaf."""

    kind: Literal["int", "float", "bool", "str"]
    name: str = Field(min_length=1)


class TupleNode(Room):
    """A tuple of fixed length; a NamedTuple if it has `fields`."""

    kind: Literal["tuple"] = "tuple"
    items: tuple[Node, ...]
    fields: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _fields_fit(self) -> TupleNode:
        if self.fields is not None and len(self.fields) != len(self.items):
            raise ValueError(f"{len(self.fields)} fields for {len(self.items)} items")
        return self


class ListNode(Room):
    """A list: of fixed length (`items`), or of any length (`element`, whose names contain `*`)."""

    kind: Literal["list"] = "list"
    items: tuple[Node, ...] | None = None
    element: Node | None = None

    @model_validator(mode="after")
    def _one_form(self) -> ListNode:
        if (self.items is None) == (self.element is None):
            raise ValueError("expected either items or element")
        return self


class DictNode(Room):
    """A dict with string keys: fixed ones (`keys`, `items`), or any (`element`)."""

    kind: Literal["dict"] = "dict"
    keys: tuple[str, ...] | None = None
    items: tuple[Node, ...] | None = None
    element: Node | None = None

    @model_validator(mode="after")
    def _one_form(self) -> DictNode:
        fixed = self.keys is not None and self.items is not None
        if fixed == (self.element is not None) or (self.keys is None) != (self.items is None):
            raise ValueError("expected either keys and items, or element")
        if len(self.keys or ()) != len(self.items or ()):
            raise ValueError(f"{len(self.keys or ())} keys for {len(self.items or ())} items")
        return self


class OptionalNode(Room):
    """A value that is None if none of its leaves is given."""

    kind: Literal["optional"] = "optional"
    item: Node


class NoneNode(Room):
    """A value that is always None."""

    kind: Literal["none"] = "none"


def shape_text(shape: tuple[Dimension, ...]) -> str:
    """Return a shape for a message: `[batch,510]`, with `?` for a dimension of any size."""
    return "[" + ",".join("?" if size is None else str(size) for size in shape) + "]"


Leaf = TensorNode | ScalarNode
Node = Annotated[
    TensorNode | ScalarNode | TupleNode | ListNode | DictNode | OptionalNode | NoneNode,
    Field(discriminator="kind"),
]


def leaves(node: Node) -> Iterator[Leaf]:
    """Yield the leaves of a node in order; names below a variadic list or dict contain `*`."""
    if isinstance(node, TensorNode | ScalarNode):
        yield node
    elif isinstance(node, OptionalNode):
        yield from leaves(node.item)
    elif isinstance(node, ListNode | DictNode) and node.element is not None:
        yield from leaves(node.element)
    elif isinstance(node, TupleNode | ListNode | DictNode):
        for item in node.items or ():
            yield from leaves(item)


def omissible(node: Node, required: bool) -> Iterator[Leaf]:
    """Yield the leaves of an argument that a caller may leave out."""
    if not required or isinstance(node, OptionalNode):
        yield from leaves(node)
    elif isinstance(node, ListNode | DictNode) and node.element is not None:
        yield from leaves(node.element)
    elif isinstance(node, TupleNode | ListNode | DictNode):
        for item in node.items or ():
            yield from omissible(item, required)


def unique(names: Sequence[str], what: str) -> None:
    """Raise ValueError if a name occurs twice."""
    counts = Counter(names)
    twice = next((name for name in names if counts[name] > 1), None)
    if twice is not None:
        raise ValueError(f"{what} '{twice}' stands twice")

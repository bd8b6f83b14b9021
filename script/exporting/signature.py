"""Infers a method's signature from the types of the compiled schema and from the examples.

A dimension whose size differs between examples becomes a symbol. Dimensions that always vary
together become one symbol, so examples should vary independent dimensions independently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torchship.script.errors import ExportError
from torchship.script.exporting.values import describe
from torchship.script.format.dtypes import BY_TORCH, name_of
from torchship.script.format.manifest import Argument
from torchship.script.format.nodes import (
    DictNode,
    Dimension,
    ListNode,
    Node,
    NoneNode,
    OptionalNode,
    ScalarNode,
    TensorNode,
    TupleNode,
    leaves,
)
from torchship.script.format.tree import map_children

# The sizes of one dimension: pairs of observation number and size.
Sizes = tuple[tuple[int, int], ...]

SCALAR_TYPES = {"int": int, "float": (int, float), "bool": bool, "str": str}


@dataclass(frozen=True)
class Observed:
    """A value, and the number of the observation (an example's step) that it is from."""

    number: int
    value: object


class Symbols:
    """The symbolic dimensions of one method, over all observations."""

    def __init__(self, observations: int) -> None:
        self._observations = observations
        self._names: dict[Sizes, str] = {}
        self._first_seen: dict[Sizes, tuple[str, int]] = {}

    def add(self, leaf: str, axis: int, sizes: Sizes) -> None:
        """Add an input dimension; it becomes a symbol if its size varies between observations.

        A dimension with two sizes in one observation (in elements of a list) may have any size.
        """
        if _varies(sizes) and not _is_ragged(sizes) and self._find(sizes) is None:
            self._first_seen.setdefault(sizes, (leaf, axis))

    def name(self, leaf: str, axis: int, sizes: Sizes, symbol: str) -> None:
        """Give the symbol of an input dimension the name that the user chose."""
        found = self._find(sizes)
        if _is_ragged(sizes):
            raise ExportError(
                f"dimension {axis} of '{leaf}' was to be called '{symbol}', but has two sizes in "
                "one example: a name stands for one size in each call"
            )
        if found is None:
            observed = sorted({size for _, size in sizes})
            raise ExportError(
                f"dimension {axis} of '{leaf}' was to be called '{symbol}', but has the size "
                f"{observed[0]} in every example: give examples with two sizes of it"
            )
        other = next((key for key, value in self._names.items() if value == symbol), found)
        if other != found:
            raise ExportError(
                f"dimension {axis} of '{leaf}' cannot be called '{symbol}': another dimension "
                "has that name, and their sizes differ in the examples"
            )
        self._names[found] = symbol

    def finish(self) -> None:
        """Name the remaining symbols by their place: `x_0` for dimension 0 of `x`."""
        for sizes, (leaf, axis) in self._first_seen.items():
            self._names.setdefault(sizes, f"{leaf.replace('*', 'n').replace('.', '_')}_{axis}")

    def dimension(self, sizes: Sizes) -> Dimension:
        """Return a dimension's size, its symbol, or None if it varies unlike any input."""
        found = self._find(sizes)
        if found is not None:
            return self._names[found]
        distinct = {size for _, size in sizes}
        return distinct.pop() if len(distinct) == 1 else None

    def _find(self, sizes: Sizes) -> Sizes | None:
        """Return the symbol that has these sizes in the same observations; None if there is none.

        A constant dimension is fixed if it is in every observation. If it is only in some (an
        optional argument), it may still be a symbol that varies in other arguments.
        """
        if not _varies(sizes) and len({number for number, _ in sizes}) == self._observations:
            return None
        for known in self._first_seen:
            if set(sizes) <= set(known):
                return known
        return None


def _varies(sizes: Sizes) -> bool:
    return len({size for _, size in sizes}) > 1


def _is_ragged(sizes: Sizes) -> bool:
    """Return whether an observation has two sizes."""
    return len(set(sizes)) > len({number for number, _ in sizes})


class Inference:
    """Builds the value trees of one method's arguments or results from observed values."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.sizes: dict[str, list[Sizes]] = {}

    def node(self, name: str, kind: Any, observed: Sequence[Observed]) -> Node:
        """Return the tree of a value with the TorchScript type `kind` and these observations.

        Raises:
            ExportError: a type, dtype or name that an archive cannot carry, or contradictory
                observations.
        """
        type_name = kind.kind()
        if type_name == "OptionalType":
            present = [item for item in observed if item.value is not None]
            if not present:
                return NoneNode()
            return OptionalNode(item=self.node(name, kind.getElementType(), present))
        if type_name == "UnionType":
            kind = _member(kind, observed)
            type_name = kind.kind()
        if type_name == "NoneType":
            return NoneNode()
        if any(item.value is None for item in observed):
            raise ExportError(f"{self._what} '{name}': got None, expected {kind.annotation_str}")
        if type_name == "TensorType":
            return self._tensor(name, observed)
        if type_name in ("IntType", "FloatType", "BoolType", "StringType"):
            return self._scalar(name, type_name, observed)
        if type_name == "TupleType":
            return self._tuple(name, kind, observed)
        if type_name == "ListType":
            return self._list(name, kind.getElementType(), observed)
        if type_name == "DictType":
            return self._dict(name, kind, observed)
        raise ExportError(
            f"{self._what} '{name}' has the type {kind.annotation_str}: expected tensors, "
            "numbers, strings, and tuples, lists, dicts or optionals of them"
        )

    def _tensor(self, name: str, observed: Sequence[Observed]) -> Node:
        tensors = []
        for item in observed:
            if not isinstance(item.value, torch.Tensor):
                raise ExportError(
                    f"{self._what} '{name}': expected a tensor, got {type(item.value).__name__}: "
                    "annotate its type, without one TorchScript takes it for a tensor"
                )
            tensors.append(item.value)
        dtypes = {tensor.dtype for tensor in tensors}
        ranks = {tensor.dim() for tensor in tensors}
        if len(dtypes) > 1 or len(ranks) > 1:
            found = sorted({f"{name_of(t.dtype)}{list(t.shape)}" for t in tensors})
            raise ExportError(
                f"{self._what} '{name}' has other dtypes or ranks from example to example: "
                f"{', '.join(found)}"
            )
        dtype = dtypes.pop()
        if dtype not in BY_TORCH or any(tensor.layout != torch.strided for tensor in tensors):
            raise ExportError(
                f"{self._what} '{name}' is {name_of(dtype)}: an archive "
                f"carries dense tensors of {', '.join(d.name for d in BY_TORCH.values())}"
            )
        self.sizes[name] = [
            tuple((item.number, t.shape[axis]) for item, t in zip(observed, tensors, strict=True))
            for axis in range(ranks.pop())
        ]
        return TensorNode(name=name, dtype=name_of(dtype), shape=(None,) * len(self.sizes[name]))

    def _scalar(self, name: str, type_name: str, observed: Sequence[Observed]) -> Node:
        kind = {"IntType": "int", "FloatType": "float", "BoolType": "bool", "StringType": "str"}[
            type_name
        ]
        for item in observed:
            if not isinstance(item.value, SCALAR_TYPES[kind]):  # type: ignore[arg-type]
                raise ExportError(
                    f"{self._what} '{name}': expected {kind}, got {type(item.value).__name__}"
                )
        return ScalarNode(kind=kind, name=name)  # type: ignore[arg-type]

    def _tuple(self, name: str, kind: Any, observed: Sequence[Observed]) -> Node:
        elements = kind.elements()
        values = [item.value for item in observed]
        for value in values:
            if not isinstance(value, tuple) or len(value) != len(elements):
                raise ExportError(
                    f"{self._what} '{name}': expected a tuple of {len(elements)}, got "
                    f"{describe(value)}"
                )
        fields = getattr(values[0], "_fields", None)
        parts = fields or range(len(elements))
        items = tuple(
            self.node(f"{name}.{part}", element, [_item(item, index) for item in observed])
            for index, (part, element) in enumerate(zip(parts, elements, strict=True))
        )
        return TupleNode(items=items, fields=fields)

    def _list(self, name: str, element: Any, observed: Sequence[Observed]) -> Node:
        for item in observed:
            if not isinstance(item.value, list):
                raise ExportError(
                    f"{self._what} '{name}': expected a list, got {type(item.value).__name__}"
                )
        lengths = {len(item.value) for item in observed}  # type: ignore[arg-type]
        if len(lengths) == 1 and lengths != {0}:
            items = tuple(
                self.node(f"{name}.{index}", element, [_item(item, index) for item in observed])
                for index in range(lengths.pop())
            )
            return ListNode(items=items)
        every = [Observed(item.number, value) for item in observed for value in item.value]  # type: ignore[attr-defined]
        return ListNode(element=self._element(name, element, every))

    def _dict(self, name: str, kind: Any, observed: Sequence[Observed]) -> Node:
        if kind.getKeyType().kind() != "StringType":
            raise ExportError(
                f"{self._what} '{name}': expected a dict with string keys, got "
                f"{kind.annotation_str}"
            )
        values: list[dict[str, object]] = []
        for item in observed:
            if not isinstance(item.value, dict):
                raise ExportError(
                    f"{self._what} '{name}': expected a dict, got {type(item.value).__name__}"
                )
            values.append(item.value)
        for key in {key for value in values for key in value}:
            check_name(key, f"a key of {self._what} '{name}'")
        element = kind.getValueType()
        keys = list(values[0])
        if keys and all(set(value) == set(keys) for value in values):
            items = tuple(
                self.node(f"{name}.{key}", element, [_item(item, key) for item in observed])
                for key in keys
            )
            return DictNode(keys=tuple(keys), items=items)
        every = [
            Observed(item.number, inner)
            for item, value in zip(observed, values, strict=True)
            for inner in value.values()
        ]
        return DictNode(element=self._element(name, element, every))

    def _element(self, name: str, element: Any, every: Sequence[Observed]) -> Node:
        if not every:
            raise ExportError(
                f"{self._what} '{name}' is empty in every example: give one that has an element"
            )
        return self.node(f"{name}.*", element, every)


def _member(union: Any, observed: Sequence[Observed]) -> Any:
    """Return the member of a union that all observed values have; the union if there is none.

    The archive then accepts only this member: graph layers, for example, are compiled for dense
    and sparse edges, and an example has one of them.
    """
    accepted = {"TensorType": torch.Tensor, "ListType": list, "TupleType": tuple, "DictType": dict}
    accepted |= {"StringType": str, "BoolType": bool, "IntType": int, "FloatType": float}
    for member in union.containedTypes():
        kind = accepted.get(member.kind())
        if kind is not None and all(isinstance(item.value, kind) for item in observed):
            return member
    return union


def _item(observed: Observed, key: object) -> Observed:
    return Observed(observed.number, observed.value[key])  # type: ignore[index]


def check_name(name: object, what: str) -> None:
    """Refuse names that cannot be part of a flat name.

    Raises:
        ExportError: the name is empty, not a string, or has `.`, `*`, `/` or control characters.
    """
    if not isinstance(name, str) or not name or not name.isprintable() or set(name) & set(".*/"):
        raise ExportError(f"{what} is called {name!r}: expected a name without '.', '*' and '/'")


def infer_inputs(
    schema: Any, calls: Sequence[Mapping[str, object]], dims: Mapping[str, str], fixed: bool
) -> tuple[tuple[Argument, ...], Symbols]:
    """Return a method's arguments and symbols from its schema and observed calls.

    `dims` names symbols by place (`{"x.0": "batch"}`); `fixed` allows examples in which no
    dimension varies. Arguments that no call has are left out and keep their default.
    """
    inference = Inference("argument")
    arguments = []
    for argument in schema.arguments[1:]:
        observed = [
            Observed(n, call[argument.name])
            for n, call in enumerate(calls)
            if argument.name in call
        ]
        if not observed:
            continue
        check_name(argument.name, "an argument")
        value = inference.node(argument.name, argument.type, observed)
        required = not argument.has_default_value()
        arguments.append(Argument(name=argument.name, required=required, value=value))
    symbols = Symbols(len(calls))
    for name, axes in inference.sizes.items():
        for axis, sizes in enumerate(axes):
            symbols.add(name, axis, sizes)
    for place, symbol in dims.items():
        leaf, _, axis_text = place.rpartition(".")
        axes = inference.sizes.get(leaf, [])
        if not axis_text.isdecimal() or int(axis_text) >= len(axes):
            raise ExportError(
                f"no input dimension '{place}' to call '{symbol}': expected INPUT.AXIS with an "
                f"input of {', '.join(repr(name) for name in inference.sizes)}"
            )
        check_name(symbol, "a dimension")
        symbols.name(leaf, int(axis_text), axes[int(axis_text)], symbol)
    symbols.finish()
    resolved = tuple(
        argument.model_copy(update={"value": resolve(argument.value, inference, symbols)})
        for argument in arguments
    )
    if inference.sizes and not fixed and not _has_symbol(argument.value for argument in resolved):
        raise ExportError(
            "every example has the same sizes, so the batch dimension cannot be found: give two "
            "examples of different sizes (or --fixed, if the model takes this one size only)"
        )
    return resolved, symbols


def infer_outputs(
    schema: Any, results: Sequence[object], names: Sequence[str], symbols: Symbols
) -> Node:
    """Return the tree of a method's results; `names` names the items of a top-level tuple.

    Raises:
        ExportError: a result is not made of tensors, or the number of names is wrong.
    """
    kind = schema.returns[0].type
    inference = Inference("output")
    observed = [Observed(number, result) for number, result in enumerate(results)]
    for name in names:
        check_name(name, "an output")
    fields: tuple[str, ...] | None = getattr(results[0], "_fields", None)
    parts = tuple(names) or fields
    if isinstance(results[0], tuple) and parts:
        if len(set(parts)) != len(results[0]):
            raise ExportError(
                f"got the output names {', '.join(parts)}: expected {len(results[0])} different "
                "ones, one for each item that the module returns"
            )
        node: Node = TupleNode(
            items=tuple(
                inference.node(name, element, [_item(item, index) for item in observed])
                for index, (name, element) in enumerate(zip(parts, kind.elements(), strict=True))
            ),
            fields=fields,
        )
    else:
        if len(names) > 1:
            raise ExportError(f"got {len(names)} output names, and the module returns one value")
        node = inference.node(names[0] if names else "output", kind, observed)
    if any(isinstance(leaf, ScalarNode) for leaf in leaves(node)) or not list(leaves(node)):
        raise ExportError("the module returns something that is not a tensor: return tensors only")
    return resolve(node, inference, symbols)


def resolve(node: Node, inference: Inference, symbols: Symbols) -> Node:
    """Return the tree with its shapes filled in with sizes and symbols."""
    if isinstance(node, TensorNode):
        shape = tuple(symbols.dimension(sizes) for sizes in inference.sizes[node.name])
        return node.model_copy(update={"shape": shape})
    return map_children(node, lambda child: resolve(child, inference, symbols))


def _has_symbol(nodes: Iterable[Node]) -> bool:
    return any(
        not isinstance(size, int)
        for node in nodes
        for leaf in leaves(node)
        if isinstance(leaf, TensorNode)
        for size in leaf.shape
    )

"""Nested values and their flat, named leaves (docs/archive.md, "Values").

A call's arguments travel as a flat mapping from leaf name to tensor. Numbers are 0-d tensors
(int64, float64, bool) and strings are uint8 vectors of UTF-8 bytes.
"""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torchship.script.errors import InputError
from torchship.script.format.nodes import (
    DictNode,
    Leaf,
    ListNode,
    Node,
    NoneNode,
    OptionalNode,
    ScalarNode,
    TensorNode,
    TupleNode,
    leaves,
)

Flat = dict[str, torch.Tensor]

SCALAR_DTYPES = {"int": torch.int64, "float": torch.float64, "bool": torch.bool}


def map_children(node: Node, change: Callable[[Node], Node]) -> Node:
    """Return an inner node with `change` applied to each of its children."""
    update: dict[str, object] = {}
    if isinstance(node, OptionalNode):
        update["item"] = change(node.item)
    elif isinstance(node, TupleNode | ListNode | DictNode):
        if node.items is not None:
            update["items"] = tuple(change(item) for item in node.items)
        if not isinstance(node, TupleNode) and node.element is not None:
            update["element"] = change(node.element)
    return node.model_copy(update=update)


def matches(pattern: str, name: str) -> bool:
    """Return whether a flat name matches a leaf's name, whose `*` stands for an index or key."""
    if "*" not in pattern:
        return pattern == name
    return re.fullmatch(re.escape(pattern).replace(r"\*", "[^.]+"), name) is not None


def flatten(node: Node, value: object) -> Flat:
    """Return the flat leaves of a value with the node's structure.

    Raises:
        TypeError: the value has a different structure.
    """
    flat: Flat = {}
    _flatten(node, value, (), flat)
    return flat


def _flatten(node: Node, value: object, stars: tuple[str, ...], flat: Flat) -> None:
    if isinstance(node, TensorNode):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"'{node.name}': expected a tensor, got {type(value).__name__}")
        flat[_fill(node.name, stars)] = value
    elif isinstance(node, ScalarNode):
        flat[_fill(node.name, stars)] = _scalar_to_tensor(node, value)
    elif isinstance(node, OptionalNode):
        if value is not None:
            _flatten(node.item, value, stars, flat)
    elif isinstance(node, NoneNode):
        if value is not None:
            raise TypeError(f"expected None, got {type(value).__name__}")
    elif isinstance(node, DictNode):
        if not isinstance(value, dict):
            raise TypeError(f"expected a dict, got {type(value).__name__}")
        if node.element is not None:
            for key, item in value.items():
                _flatten(node.element, item, (*stars, str(key)), flat)
            return
        if set(value) != set(node.keys or ()):
            raise TypeError(f"expected the keys {list(node.keys or ())}, got {list(value)}")
        for key, item_node in zip(node.keys or (), node.items or (), strict=True):
            _flatten(item_node, value[key], stars, flat)
    else:
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected a list or tuple, got {type(value).__name__}")
        if isinstance(node, ListNode) and node.element is not None:
            for index, item in enumerate(value):
                _flatten(node.element, item, (*stars, str(index)), flat)
            return
        items = node.items or ()
        if len(value) != len(items):
            raise TypeError(f"expected {len(items)} items, got {len(value)}")
        for item_node, item in zip(items, value, strict=True):
            _flatten(item_node, item, stars, flat)


def _fill(name: str, stars: tuple[str, ...]) -> str:
    for star in stars:
        name = name.replace("*", star, 1)
    return name


def _scalar_to_tensor(node: ScalarNode, value: object) -> torch.Tensor:
    if node.kind == "str":
        if not isinstance(value, str):
            raise TypeError(f"'{node.name}': expected a string, got {type(value).__name__}")
        return string_to_tensor(value)
    if not isinstance(value, bool | int | float):
        raise TypeError(f"'{node.name}': expected a number, got {type(value).__name__}")
    return torch.tensor(value, dtype=SCALAR_DTYPES[node.kind])


def string_to_tensor(text: str) -> torch.Tensor:
    """Return the UTF-8 bytes of a string as a uint8 vector."""
    return bytes_to_tensor(text.encode())


def bytes_to_tensor(data: bytes) -> torch.Tensor:
    """Return a copy of bytes as a uint8 vector."""
    if not data:
        return torch.empty(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def tensor_to_string(tensor: torch.Tensor) -> str:
    """Return the string of a uint8 vector of UTF-8 bytes."""
    return tensor.numpy(force=True).tobytes().decode()


@dataclass(frozen=True)
class _Absent:
    """A value without any given leaf; `missing` is the first leaf that it needs."""

    missing: str


def build(node: Node, flat: Mapping[str, torch.Tensor]) -> object:
    """Assemble a nested value from flat leaves.

    Raises:
        KeyError: a leaf is missing; its argument is the leaf's name.
    """
    value = _build(node, flat, ())
    if isinstance(value, _Absent):
        raise KeyError(value.missing)
    return value


def _build(node: Node, flat: Mapping[str, torch.Tensor], stars: tuple[str, ...]) -> object:
    if isinstance(node, TensorNode | ScalarNode):
        name = _fill(node.name, stars)
        if name not in flat:
            return _Absent(name)
        return flat[name] if isinstance(node, TensorNode) else _tensor_to_scalar(node, flat[name])
    if isinstance(node, NoneNode):
        return None
    if isinstance(node, OptionalNode):
        if not any(_given(leaf, flat, stars) for leaf in leaves(node.item)):
            return None
        return _build(node.item, flat, stars)
    if isinstance(node, ListNode | DictNode) and node.element is not None:
        found = _star_values(node.element, flat, stars)
        if isinstance(node, ListNode):
            found = [str(index) for index in range(len(found))]
        else:
            found.sort()  # a sum over the dict depends on its order: use the same in every runtime
        built = [_build(node.element, flat, (*stars, star)) for star in found]
        absent = next((item for item in built if isinstance(item, _Absent)), None)
        if absent is not None:
            return absent
        return built if isinstance(node, ListNode) else dict(zip(found, built, strict=True))
    items: list[Any] = [_build(item, flat, stars) for item in node.items or ()]
    absent = next((item for item in items if isinstance(item, _Absent)), None)
    if absent is not None:
        return absent
    if isinstance(node, DictNode):
        return dict(zip(node.keys or (), items, strict=True))
    if isinstance(node, ListNode):
        return items
    if node.fields is not None:
        fields: object = namedtuple("Fields", node.fields)(*items)
        return fields
    return tuple(items)


def _given(leaf: Leaf, flat: Mapping[str, torch.Tensor], stars: tuple[str, ...]) -> bool:
    pattern = _fill(leaf.name, stars)
    return any(matches(pattern, name) for name in flat)


def _star_values(
    element: Node, flat: Mapping[str, torch.Tensor], stars: tuple[str, ...]
) -> list[str]:
    """Return what `*` stands for in the given names, in order of first appearance."""
    found: dict[str, None] = {}
    for leaf in leaves(element):
        head, _, tail = _fill(leaf.name, stars).partition("*")
        pattern = re.escape(head) + "([^.]+)" + re.escape(tail).replace(r"\*", "[^.]+")
        for name in flat:
            hit = re.fullmatch(pattern, name)
            if hit:
                found.setdefault(hit.group(1))
    return list(found)


def _tensor_to_scalar(node: ScalarNode, tensor: torch.Tensor) -> int | float | bool | str:
    if node.kind == "str":
        return tensor_to_string(tensor)
    if tensor.numel() != 1:
        raise InputError(f"input '{node.name}': expected one {node.kind}, got {tensor.numel()}")
    value: int | float | bool = tensor.item()
    return value

"""Checks the outputs of a call against its method's signature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch

from torchship.script.errors import ModelError
from torchship.script.format.dtypes import BY_NAME, name_of
from torchship.script.format.manifest import Argument, Method
from torchship.script.format.nodes import (
    DictNode,
    Dimension,
    ListNode,
    Node,
    OptionalNode,
    TensorNode,
    TupleNode,
    leaves,
    shape_text,
)
from torchship.script.format.tree import matches


class Shaped(Protocol):
    """A tensor, or another object with a dtype and a shape."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its elements."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each dimension."""
        ...


class SignatureError(ModelError):
    """An output that does not match the signature; the message says what was expected."""

    def __init__(self, message: str, output: str, shape: tuple[int, ...]) -> None:
        """Take the output's name and its actual shape."""
        super().__init__(message)
        self.output = output
        self.shape = shape


_Expected = tuple[torch.dtype, tuple[Dimension, ...]]


class OutputCheck:
    """Checks outputs by the rule of every runtime (`Call::check_outputs` in C++).

    Dtype, rank and fixed sizes must match the signature. A symbol has the size that it has in the
    call's inputs; a symbol of the outputs only must have the same size in all outputs.
    """

    def __init__(self, method: Method) -> None:
        nodes = [leaf for leaf in leaves(method.outputs) if isinstance(leaf, TensorNode)]
        self._exact = {node.name: node for node in nodes if "*" not in node.name}
        self._patterns = [node for node in nodes if "*" in node.name]
        self._known: tuple[Mapping[str, int] | None, dict[str, _Expected]] = (None, {})

    def check(self, outputs: Mapping[str, Shaped], symbols: Mapping[str, int]) -> None:
        """Check a call's outputs; `symbols` has the size of each symbol in its inputs.

        Raises:
            SignatureError: an output does not match; raised for the first one.
        """
        known_of, known = self._known
        if symbols is not known_of:  # most calls have the same sizes as the previous one
            known = {}
            self._known = (symbols, known)
        bound: dict[str, int] = {}
        for name, output in outputs.items():
            expected = known.get(name)
            if expected is None:
                expected = known[name] = self._expect(name, symbols)
            dtype, shape = expected
            actual = output.shape
            if output.dtype is dtype and (actual == shape or _fits(actual, shape, bound)):
                continue
            shown = tuple(
                bound.get(size, size) if isinstance(size, str) else size for size in shape
            )
            raise SignatureError(
                f"output '{name}': expected {name_of(dtype)}{shape_text(shown)}, "
                f"got {name_of(output.dtype)}{shape_text(tuple(actual))}",
                *(name, tuple(actual)),
            )

    def _expect(self, name: str, symbols: Mapping[str, int]) -> _Expected:
        node = self._exact.get(name)
        if node is None:
            node = next(node for node in self._patterns if matches(node.name, name))
        shape = tuple(
            symbols.get(size, size) if isinstance(size, str) else size for size in node.shape
        )
        return BY_NAME[node.dtype].torch, shape


def _fits(actual: tuple[int, ...], shape: tuple[Dimension, ...], bound: dict[str, int]) -> bool:
    """Return whether sizes match; `bound` collects the sizes of symbols that no input has."""
    if len(actual) != len(shape):
        return False
    for size, expected in zip(actual, shape, strict=True):
        if isinstance(expected, str):
            expected = bound.setdefault(expected, size)
        if expected is not None and size != expected:
            return False
    return True


def sizes_follow_from_shapes(method: Method) -> bool:
    """Return whether the number and sizes of the outputs follow from the inputs' shapes.

    The size of an output with an open dimension, or a symbol that no input has, depends on values.
    """
    known = input_symbols(method.inputs)
    return not _is_open(method.outputs) and all(
        isinstance(size, int) or size in known
        for leaf in leaves(method.outputs)
        if isinstance(leaf, TensorNode)
        for size in leaf.shape
    )


def input_symbols(inputs: Iterable[Argument]) -> dict[str, set[str]]:
    """Return the symbols of a method's inputs, each with the names of its leaves."""
    found: dict[str, set[str]] = {}
    for argument in inputs:
        for leaf in leaves(argument.value):
            for size in leaf.shape if isinstance(leaf, TensorNode) else ():
                if isinstance(size, str):
                    found.setdefault(size, set()).add(leaf.name)
    return found


def _is_open(node: Node) -> bool:
    """Return whether the number of a value's leaves may differ between calls."""
    if isinstance(node, OptionalNode):
        return True
    if isinstance(node, ListNode | DictNode) and node.element is not None:
        return True
    if isinstance(node, TupleNode | ListNode | DictNode):
        return any(map(_is_open, node.items or ()))
    return False

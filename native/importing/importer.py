"""Runs a method's TorchScript graph on symbols, and writes down what it does as statements.

What is known (sizes, attributes, lists, branches on them) is decided now; what is not becomes
statements: elementwise operations, kernels, `If` and `Loop`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import sympy
import torch

from torchship.native.importing.builder import Builder
from torchship.native.importing.graph import all_nodes, debug_name, source_line, writes_in_place
from torchship.native.importing.places import Places
from torchship.native.importing.registry import OPERATORS, Handler
from torchship.native.importing.values import (
    Concat,
    Device,
    DictValue,
    Full,
    ListValue,
    ModuleValue,
    OneHot,
    Optional,
    is_weight,
    tensors_in,
)
from torchship.native.ir import sizes
from torchship.native.ir.program import (
    Declare,
    Define,
    If,
    Raise,
    Scalar,
    View,
)
from torchship.native.ir.sizes import Size
from torchship.native.ir.weights import weight_value
from torchship.script.runtime import torchscript_graph


class Importer:
    """The values of one method's graph, and the builder of its statements."""

    def __init__(self, builder: Builder, module: torch.jit.ScriptModule) -> None:
        self.builder = builder
        self.module = module
        self.values: dict[int, object] = {}
        self.assumed: dict[str, bool] = {}
        """Truth values of C expressions on the path that is compiled now."""
        self.scopes: list[tuple[int, str]] = [(0, "method")]
        """The loops and branches of the C code around what is compiled now, each with a number."""
        self._scope_count = 0
        self.appended: list[dict[int, tuple[ListValue, View]]] = []
        self.at_least_0: dict[str, list[Size]] = {}
        """What is 0 or more if a C expression is false."""
        self.loops: dict[sympy.Symbol, Size] = {}
        """The indices of the loops in C around what is compiled now; their numbers of rounds."""
        self.changes = 0
        """How many changes of lists and dicts there were."""
        self.mutates = False
        """Whether the graph writes to tensors in place."""
        self.places = Places(self.builder)
        """Where tensors lie that are one tensor in torch."""
        self.watch: Callable[[Any, object], None] | None = None
        """Gets the values of the graph, each with what it is, as soon as it is known."""

    # --- the graph ---

    def run(self, graph: Any, arguments: Sequence[object]) -> object:
        """Return the value of the graph's single result."""
        self.mutates = any(writes_in_place(node) for node in all_nodes(graph))
        for value, given in zip(graph.inputs(), arguments, strict=True):
            self.values[value.unique()] = given
        self.block(graph)
        (result,) = graph.outputs()
        return self.value(result)

    def block(self, block: Any) -> None:
        """Run the nodes of a graph or block."""
        for node in block.nodes():
            self.node(node)

    def value(self, value: Any) -> Any:
        """Return what a value of the graph is."""
        found = self.values[value.unique()]
        if isinstance(found, Optional) and found.flag in self.assumed:
            return found.value if self.assumed[found.flag] else None
        return found

    def node(self, node: Any) -> None:
        """Run one node.

        Raises:
            UnsupportedError: there is no translation of it.
        """
        self.builder.where, self.builder.note = source_line(node) or self.builder.where, node.kind()
        outputs = list(node.outputs())
        self.builder.hint = debug_name(outputs[0]) if outputs else ""
        kind = node.kind()
        arguments = [self.value(value) for value in node.inputs()]
        result = self._folded(node, arguments)
        if result is None:
            handler = OPERATORS.get(kind)
            if handler is None:
                raise self.builder.unsupported(f"operator {kind} has no C yet")
            result = (self._handled(handler, node, arguments),)
        results: Any = result if len(outputs) == 1 else (result[0] if outputs else ())
        for value, one in zip(outputs, results, strict=True):
            self.values[value.unique()] = one
            if self.watch is not None:
                self.watch(value, one)

    def _handled(self, handler: Handler, node: Any, arguments: list[Any]) -> object:
        """Return what a handler makes of a node; refuse the node if its arguments do not fit."""
        try:
            result = handler(self, node, arguments)
        except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as e:
            raise self.builder.unsupported(
                f"operator {node.kind()} has no C for these arguments: {e or type(e).__name__}"
            ) from e
        if self.mutates and isinstance(result, Full | OneHot | Concat):
            # It may be written in place under one of several names, so it has one place.
            return self.builder.materialise(result)
        return result

    @property
    def scope(self) -> int:
        """The number of the innermost loop or branch of the C code, 0 outside of all."""
        return self.scopes[-1][0]

    def fits(self, index: Size, size: Size) -> bool:
        """Whether a loop's index, or it counted from the end, is always below a size."""
        for step, count in self.loops.items():
            if sizes.less(size, count) is False:
                if sizes.equal(index, step) is True:
                    return True
                if sizes.equal(index, count - 1 - step) is True:
                    return True
        return False

    def require_positive(self, size: Size, *message: str | Size) -> None:
        """Let the C raise a message if a size is not above 0.

        Raises:
            UnsupportedError: it never is.
        """
        if sizes.less(0, size) is True:
            return
        if sizes.less(0, size) is False:
            raise self.builder.unsupported("".join(map(str, message)))
        statement = Raise(message)
        statement.where, statement.note = self.builder.where, self.builder.note
        self.builder.add(If(Scalar("bool", f"{sizes.c_text(size)} < 1"), [statement], []))

    @contextmanager
    def inside_scope(self, kind: str) -> Any:
        """Count a loop or branch of the C code as the innermost until the block ends."""
        self._scope_count += 1
        self.scopes.append((self._scope_count, kind))
        with sizes.minimums():
            try:
                yield
            finally:
                self.scopes.pop()

    # --- constants ---

    def attribute(self, owner: ModuleValue, name: str) -> object:
        """Return an attribute of a module: a weight, a submodule or a constant."""
        path = f"{owner.path}.{name}" if owner.path else name
        module: Any = owner.module
        return self.constant(module.getattr(name), path)

    def constant(self, value: object, name: str) -> object:
        """Return a Python value as a value of the graph."""
        if torchscript_graph.is_object(value):
            return ModuleValue(name, value)
        if isinstance(value, torch.Tensor):
            return self.builder.weight(name, value)
        if isinstance(value, list):
            return ListValue(
                [self.constant(item, f"{name}.{i}") for i, item in enumerate(value)], 0
            )
        if isinstance(value, tuple):
            return tuple(self.constant(item, f"{name}.{i}") for i, item in enumerate(value))
        if isinstance(value, dict):
            items = {key: self.constant(item, f"{name}.{key}") for key, item in value.items()}
            return DictValue(items, 0)
        if isinstance(value, torch.device):
            return Device(value.type)
        return value

    def _folded(self, node: Any, arguments: list[Any]) -> tuple[object, ...] | None:
        """Return the result of an operator on weights alone, computed by torch now; else None."""
        tensors = tensors_in(arguments)
        namespace, _, name = node.kind().partition("::")
        if (
            namespace != "aten"
            or not tensors
            or not all(map(is_weight, tensors))
            or writes_in_place(node)
        ):
            return None
        if name in SHAPE_QUERIES:
            return None
        try:
            given = [_known(argument) for argument in arguments]
        except TypeError:
            return None
        declared = torchscript_graph.declared_arguments(node)
        plain = [v for v, a in zip(given, declared, strict=True) if not a.kwarg_only]
        named = {a.name: v for v, a in zip(given, declared, strict=True) if a.kwarg_only}
        result = getattr(torch.ops.aten, name)(*plain, **named)
        if isinstance(result, torch.Tensor):
            return (self.builder.weight(self.builder.hint or name, result),)
        if isinstance(result, list | tuple) and all(isinstance(t, torch.Tensor) for t in result):
            items = [
                self.builder.weight(f"{self.builder.hint or name}_{i}", t)
                for i, t in enumerate(result)
            ]
            return (ListValue(items, self.scope) if isinstance(result, list) else tuple(items),)
        return (self.constant(result, name),)

    # --- scalars ---

    def truth(self, value: object) -> bool | Scalar:
        """Return a truth value as known on this path, or as a scalar."""
        if isinstance(value, Scalar):
            return self.assumed.get(value.text, value)
        if isinstance(value, sympy.logic.boolalg.BooleanAtom):
            return bool(value)
        assert isinstance(value, bool), value
        return value

    def declare(self, kind: str) -> tuple[str, Any]:
        """Return the name of a new variable without a value, and what reads it."""
        name = self.builder.fresh(self.builder.hint or "value")
        self.builder.add(Declare(name, kind))  # type: ignore[arg-type]
        return name, sizes.symbol(name, None) if kind == "int" else Scalar(kind, name)  # type: ignore[arg-type]

    def define(self, kind: str, value: Any) -> Any:
        """Return a new variable with a value, as a scalar (or a symbol for an integer)."""
        name = self.builder.fresh(self.builder.hint or "value")
        self.builder.add(Define(name, kind, value))  # type: ignore[arg-type]
        return sizes.symbol(name, None) if kind == "int" else Scalar(kind, name)  # type: ignore[arg-type]


SHAPE_QUERIES = {
    "size",
    "dim",
    "numel",
    "len",
    "is_floating_point",
    "stride",
    "format",
    "warn",
    "__is__",
    "__isnot__",
}


def _known(value: object) -> object:
    """Return a value for torch.

    Raises:
        TypeError: it is not known now.
    """
    if isinstance(value, View):
        return weight_value(value)
    if isinstance(value, ListValue):
        return [_known(item) for item in value.items]
    if isinstance(value, tuple):
        return tuple(_known(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(type(value).__name__)

"""From an archive's method to a program: its signature as inputs, its graph as statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch

from torchship.native.errors import UnsupportedError
from torchship.native.importing import branches, loops
from torchship.native.importing.builder import Builder
from torchship.native.importing.graph import debug_name, named_tensors
from torchship.native.importing.importer import Importer
from torchship.native.importing.operators import (
    arithmetic,
    casts,
    constants,
    functions,
    in_place,
    lists,
    products,
    recurrent,
    reductions,
    scalars,
    tensor_facts,
    texts,
    views,
)
from torchship.native.importing.registry import Raised
from torchship.native.importing.values import (
    Concat,
    DictValue,
    Full,
    ListValue,
    ModuleValue,
    OneHot,
    Optional,
    Tensor,
    is_tensor,
)
from torchship.native.ir import sizes
from torchship.native.ir.dtypes import ITEM_SIZES
from torchship.native.ir.layout import contiguous_strides, element_count
from torchship.native.ir.names import identifier
from torchship.native.ir.program import If, Scalar, Storage, View
from torchship.native.ir.program import Method as Program
from torchship.native.ir.sizes import Size
from torchship.native.ir.weights import Weights
from torchship.script.format.manifest import Method
from torchship.script.format.nodes import (
    DictNode,
    ListNode,
    Node,
    NoneNode,
    OptionalNode,
    ScalarNode,
    TensorNode,
    TupleNode,
    leaves,
)
from torchship.script.runtime import torchscript_graph

OPERATOR_MODULES = (
    arithmetic, branches, casts, constants, functions, in_place, lists, loops, products, recurrent,
    reductions, scalars, tensor_facts, texts, views,
)  # fmt: skip
"""They register what they translate when they are imported."""
BATCH = "batch"


@dataclass(frozen=True)
class Field:
    """A field of the C struct of inputs or outputs: a size, a number, or a tensor."""

    name: str
    leaf: str
    """The flat name in the signature; of a size, its symbol."""
    kind: str
    """size, int, float, bool, or tensor."""
    dtype: str = ""
    shape: tuple[Size, ...] = ()
    optional: bool = False
    storage: Storage | None = None
    batch_axis: int | None = None
    variable: str = ""
    """What a size or number is called inside the code."""
    note: str = ""
    """What the header says of it, beside its shape."""
    symbols: tuple[int | str, ...] = ()
    """The shape as the signature has it: sizes, and the leaves of fields of sizes."""


@dataclass
class Interface:
    """The C interface of a method."""

    inputs: list[Field] = field(default_factory=list)
    outputs: list[Field] = field(default_factory=list)
    batched: bool = False
    """Whether the rows of a batch may be computed in pieces."""


def import_method(
    module: torch.jit.ScriptModule,
    name: str,
    method: Method,
    weights: Weights,
    trace: bool = False,
) -> tuple[Program, Interface]:
    """Return a method of a loaded archive as a program, and its C interface.

    With `trace`, what `named_tensors` of the graph has are outputs too: `trace.<number>.<name>`.

    Raises:
        UnsupportedError: the graph has something that has no C yet; the message names the operator
            and the source line.
    """
    graph = torchscript_graph.inlined_graph(module, name)
    with sizes.minimums():
        return _Import(module, name, method, weights, trace).run(graph)


class _Import:
    def __init__(
        self,
        module: torch.jit.ScriptModule,
        name: str,
        method: Method,
        weights: Weights,
        trace: bool,
    ) -> None:
        self.module, self.name, self.method = module, name, method
        self.builder = Builder(weights)
        self.importer = Importer(self.builder, module)
        self.interface = Interface()
        self.taken: set[str] = set()
        self.results: set[str] = {"message", "message_size"}
        """The names of fields of the struct of inputs, and of that of outputs."""
        self.symbols: dict[str, sympy.Symbol] = {}
        self.storages: list[Storage] = []
        self.starts = {state.input: state.start for state in method.state}
        self.trace = trace
        self.traced: list[Field] = []

    def run(self, graph: Any) -> tuple[Program, Interface]:
        if self.trace:
            numbers = {value.unique(): n for n, value in enumerate(named_tensors(graph))}
            self.importer.watch = lambda value, one: self._watch(numbers, value, one)
        known = {argument.name: argument.value for argument in self.method.inputs}
        arguments = [
            self._argument(known[declared.name], declared.name)
            if declared.name in known
            else self._default(declared)
            for declared in self.module._c._get_method(self.name).schema.arguments[1:]
        ]
        found: list[Field] = self.interface.inputs
        self.interface.inputs = [
            *(f for f in found if f.kind == "size"),
            *(f for f in found if f.kind not in ("size", "tensor")),
            *(f for f in found if f.kind == "tensor"),
        ]
        try:
            result = self.importer.run(
                graph, [ModuleValue("", torchscript_graph.root_object(self.module)), *arguments]
            )
        except Raised:
            raise UnsupportedError(f"method '{self.name}' always raises") from None
        self.builder.where = self.builder.note = ""
        outputs = self._outputs(self.method.outputs, result)
        self.importer.places.check(self.builder.block)
        self.interface.batched = not self.trace and self._batched()
        self.interface.outputs += self.traced
        outputs += [f.storage for f in self.traced if f.storage is not None]
        program = Program(
            self.name, self.builder.block, self.storages, outputs, self.builder.temporaries
        )
        return program, self.interface

    # --- inputs ---

    def _default(self, declared: Any) -> object:
        """Return the default of an argument that the signature leaves out."""
        if not declared.has_default_value():
            raise UnsupportedError(
                f"method '{self.name}' needs '{declared.name}', which the signature lacks"
            )
        return self.importer.constant(declared.default_value, declared.name)

    def _size(self, dimension: int | str | None, leaf: str, axis: int) -> Size:
        if isinstance(dimension, int):
            return dimension
        key = dimension if dimension is not None else f"{leaf}.{axis}"
        if key not in self.symbols:
            name = identifier(key, self.taken)
            variable = "rows" if key == BATCH else self.builder.fresh(name)
            self.interface.inputs.append(Field(name, key, "size", variable=variable))
            self.symbols[key] = sizes.symbol(variable)
        return self.symbols[key]

    def _argument(self, node: Node, name: str) -> object:
        if isinstance(node, TensorNode):
            return self._tensor(node, optional=False)
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        if isinstance(node, OptionalNode):
            return self._optional(node, name)
        if isinstance(node, NoneNode):
            return None
        if isinstance(node, TupleNode):
            return tuple(self._argument(item, name) for item in node.items)
        if isinstance(node, ListNode) and node.items is not None:
            return ListValue([self._argument(item, name) for item in node.items], 0)
        if isinstance(node, DictNode) and node.items is not None and node.keys is not None:
            items = zip(node.keys, node.items, strict=True)
            return DictValue({key: self._argument(item, name) for key, item in items}, 0)
        raise UnsupportedError(
            f"input '{name}' of method '{self.name}': a list or dict of any length has no C"
        )

    def _optional(self, node: OptionalNode, name: str) -> object:
        found = list(leaves(node.item))
        if not all(isinstance(leaf, TensorNode) for leaf in found) or not found:
            raise UnsupportedError(
                f"input '{name}' of method '{self.name}': an optional number has no C"
            )
        before = len(self.interface.inputs)
        value = self._argument(node.item, name)
        made = self.interface.inputs[before:]
        tensors = [f for f in made if f.kind == "tensor"]
        self.interface.inputs[before:] = [
            Field(**{**f.__dict__, "optional": True}) if f.kind == "tensor" else f for f in made
        ]
        self.builder.hint = f"{name}_given"
        given = self.importer.define("bool", Scalar("bool", f"in->{tensors[0].name} != NULL"))
        return Optional(given.text, value)

    def _scalar(self, node: ScalarNode) -> object:
        if node.kind == "str":
            raise UnsupportedError(
                f"input '{node.name}' of method '{self.name}': a string has no C"
            )
        name = identifier(node.name, self.taken)
        variable = self.builder.fresh(name)
        self.interface.inputs.append(Field(name, node.name, node.kind, variable=variable))
        if node.kind == "int":
            return sizes.symbol(variable, None)
        return Scalar(node.kind, variable)

    def _require_dtype(self, side: str, leaf: TensorNode) -> None:
        if leaf.dtype not in ITEM_SIZES:
            raise UnsupportedError(
                f"{side} '{leaf.name}' of method '{self.name}': the dtype {leaf.dtype} has no C, "
                f"expected {', '.join(ITEM_SIZES)}"
            )

    def _tensor(self, node: TensorNode, optional: bool) -> Tensor:
        self._require_dtype("input", node)
        shape = tuple(self._size(n, node.name, axis) for axis, n in enumerate(node.shape))
        axis = list(node.shape).index(BATCH) if BATCH in node.shape else None
        name = identifier(node.name, self.taken)
        storage = Storage(self.builder.fresh(name), node.dtype, element_count(shape), "input")
        self.storages.append(storage)
        zeros = self.starts.get(node.name) == "zeros"
        self.interface.inputs.append(
            Field(
                name,
                node.name,
                "tensor",
                node.dtype,
                shape,
                optional or zeros,
                storage,
                axis,
                symbols=tuple(
                    n if n is not None else f"{node.name}.{i}" for i, n in enumerate(node.shape)
                ),
            )
        )
        view = View(storage, 0, shape, self._strides(shape, axis))
        if not zeros:
            return view
        sides: list[list[Any]] = [[], []]
        self.builder.hint = name
        made = branches.merge_tensors(self.importer, sides, view, Full(0, node.dtype, shape))
        self.builder.add(If(Scalar("bool", f"in->{name} != NULL"), *sides, note="initial state"))
        return made

    def _strides(self, shape: tuple[Size, ...], axis: int | None) -> tuple[Size, ...]:
        """Return the strides of a tensor of which `rows` rows of the whole batch are computed."""
        if axis is None:
            return contiguous_strides(shape)
        whole = list(shape)
        whole[axis] = sizes.symbol(BATCH)
        return contiguous_strides(whole)

    # --- outputs ---

    def _outputs(self, node: Node, result: object) -> list[Storage]:
        made: list[Storage] = []
        for leaf, value in self._flat(node, result):
            if isinstance(value, Optional) or not is_tensor(value):
                raise UnsupportedError(
                    f"output '{leaf.name}' of method '{self.name}' is not always a tensor"
                )
            made.append(self._output(leaf, value))  # type: ignore[arg-type]
        return made

    def _output(self, leaf: TensorNode, value: Tensor) -> Storage:
        self._require_dtype("output", leaf)
        if value.dtype != leaf.dtype or len(value.shape) != len(leaf.shape):
            raise UnsupportedError(
                f"output '{leaf.name}' of method '{self.name}': the signature says "
                f"{leaf.dtype} with {len(leaf.shape)} axes, the graph {value.dtype} with "
                f"{len(value.shape)}"
            )
        axis = list(leaf.shape).index(BATCH) if BATCH in leaf.shape else None
        known = set(self.symbols.values())
        inputs = {sizes.symbol(f.variable, None) for f in self.interface.inputs if f.kind == "int"}
        for size in value.shape:
            if not sizes.symbols_of(size) <= known | inputs:
                raise UnsupportedError(
                    f"output '{leaf.name}' of method '{self.name}': its size {size} "
                    "depends on values"
                )
        name = identifier(leaf.name, self.results)
        storage = Storage(
            self.builder.fresh(name), value.dtype, element_count(value.shape), "output"
        )
        shape = tuple(value.shape)
        self.interface.outputs.append(
            Field(name, leaf.name, "tensor", value.dtype, shape, False, storage, axis)
        )
        self.builder.hint = ""
        self.builder.note = f"output {leaf.name}"
        self.builder.copy(value, View(storage, 0, shape, self._strides(shape, axis)))
        return storage

    def _watch(self, numbers: Mapping[int, int], value: Any, one: object) -> None:
        """Let a tensor on the way be an output, if its sizes are those of the signature."""
        number = numbers.get(value.unique())
        if number is None or not isinstance(one, View | OneHot | Concat | Full):
            return
        if any(not sizes.symbols_of(n) <= set(self.symbols.values()) for n in one.shape):
            return
        where, kind = self.builder.where, value.node().kind()
        name = identifier(f"trace_{debug_name(value)}", self.results)
        count = element_count(one.shape)
        storage = Storage(self.builder.fresh(name), one.dtype, count, "output")
        shape = tuple(one.shape)
        leaf = f"trace.{number}.{debug_name(value)}"
        note = f"{where} {kind.removeprefix('aten::')}"
        self.traced.append(
            Field(name, leaf, "tensor", one.dtype, shape, storage=storage, note=note)
        )
        self.builder.copy(one, View(storage, 0, shape, contiguous_strides(shape)))

    def _flat(self, node: Node, value: Any) -> Sequence[tuple[TensorNode, object]]:
        """Return the leaves of the outputs with their values."""
        if isinstance(node, TensorNode):
            return [(node, value)]
        if isinstance(node, TupleNode):
            return [
                pair
                for item, v in zip(node.items, value, strict=True)
                for pair in self._flat(item, v)
            ]
        if isinstance(node, ListNode) and node.items is not None:
            return [
                pair
                for item, v in zip(node.items, value.items, strict=True)
                for pair in self._flat(item, v)
            ]
        if isinstance(node, DictNode) and node.items is not None and node.keys is not None:
            return [
                pair
                for key, item in zip(node.keys, node.items, strict=True)
                for pair in self._flat(item, value[key])
            ]
        raise UnsupportedError(
            f"method '{self.name}' returns a structure that has no C: {node.kind}"
        )

    def _batched(self) -> bool:
        """Whether every output has the batch as one axis, and only there."""
        rows = self.symbols.get(BATCH)
        if rows is None:
            return False
        for f in self.interface.outputs:
            depends = [i for i, size in enumerate(f.shape) if rows in sizes.symbols_of(size)]
            if depends != [f.batch_axis] or f.shape[depends[0]] != rows:
                return False
        return True

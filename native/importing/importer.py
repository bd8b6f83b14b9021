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
from torchship.native.importing.places import Places
from torchship.native.importing.values import (
    Concat,
    Device,
    DictValue,
    Full,
    ListValue,
    ModuleValue,
    OneHot,
    Optional,
    StackedList,
    Tensor,
    is_size,
    is_tensor,
    tensors_in,
)
from torchship.native.ir import sizes
from torchship.native.ir.layout import contiguous_strides, element_count, select
from torchship.native.ir.program import (
    Assign,
    Declare,
    Define,
    Elementwise,
    If,
    Loop,
    Raise,
    Scalar,
    Statement,
    Storage,
    View,
)
from torchship.native.ir.sizes import Size
from torchship.native.ir.weights import weight_value
from torchship.script.runtime import torchscript

Handler = Callable[["Importer", Any, list[Any]], object]
OPERATORS: dict[str, Handler] = {}
UNROLLED = 64
"""A loop of at most so many rounds, whose number is known, is written out."""


def operator(*kinds: str) -> Callable[[Handler], Handler]:
    """Register the translation of kinds of nodes: importer, node, arguments -> result."""

    def register(handler: Handler) -> Handler:
        for kind in kinds:
            OPERATORS[kind] = handler
        return handler

    return register


class Raised(Exception):
    """The block always ends with the model's exception; what follows is not reached."""


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
        self._appended: list[dict[int, tuple[ListValue, View]]] = []
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

    # --- the graph ---

    def run(self, graph: Any, arguments: Sequence[object]) -> object:
        """Return the value of the graph's single result."""
        self.mutates = any(_writes(node) for node in _all_nodes(graph))
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
        if kind == "prim::If":
            results: Sequence[object] = self._if(node)
        elif kind == "prim::Loop":
            results = self._loop(node)
        else:
            arguments = [self.value(value) for value in node.inputs()]
            result = self._folded(node, arguments)
            if result is None:
                handler = OPERATORS.get(kind)
                if handler is None:
                    raise self.builder.unsupported(f"operator {kind} has no C yet")
                result = (self._handled(handler, node, arguments),)
            results = result if len(outputs) == 1 else (result[0] if outputs else ())  # type: ignore[assignment]
        for value, one in zip(outputs, results, strict=True):
            self.values[value.unique()] = one

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
    def _scope(self, kind: str) -> Any:
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
        if torchscript.is_object(value):
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
        if namespace != "aten" or not tensors or not all(map(is_weight, tensors)) or _writes(node):
            return None
        if name in SHAPE_QUERIES:
            return None
        try:
            given = [_known(argument) for argument in arguments]
        except TypeError:
            return None
        declared = torchscript.declared_arguments(node)
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

    # --- branches ---

    def truth(self, value: object) -> bool | Scalar:
        """Return a truth value as known on this path, or as a scalar."""
        if isinstance(value, Scalar):
            return self.assumed.get(value.text, value)
        if isinstance(value, sympy.logic.boolalg.BooleanAtom):
            return bool(value)
        assert isinstance(value, bool), value
        return value

    def _if(self, node: Any) -> Sequence[object]:
        (condition,) = [self.value(value) for value in node.inputs()]
        truth = self.truth(condition)
        blocks = list(node.blocks())
        if isinstance(truth, bool):
            chosen = blocks[0 if truth else 1]
            self.block(chosen)
            return [self.value(value) for value in chosen.outputs()]
        where, note = self.builder.where, self.builder.note
        branches: list[list[Statement]] = [[], []]
        results: list[list[object] | None] = [None, None]
        for which, (block, taken) in enumerate(zip(blocks, (True, False), strict=True)):
            with (
                self.builder.inside(branches[which]),
                self._assuming(truth.text, taken),
                self._scope("branch"),
            ):
                try:
                    self.block(block)
                    results[which] = [self.value(value) for value in block.outputs()]
                except Raised:
                    pass
        statement = If(truth, *branches, where=where, note=note)
        if results[0] is None and results[1] is None:
            self.builder.add(statement)
            raise Raised
        merged: list[object] = []
        for value, pair in zip(
            node.outputs(),
            zip(*(r or [None] * len(list(node.outputs())) for r in results), strict=True),
            strict=True,
        ):
            if results[0] is None or results[1] is None:
                merged.append(pair[0] if results[1] is None else pair[1])
            else:
                self.builder.hint = debug_name(value)
                merged.append(self._merge(truth, branches, *pair))
                if pair[0] is True and isinstance(merged[-1], Scalar):
                    both = [truth.text, pair[1].text if isinstance(pair[1], Scalar) else ""]
                    self.at_least_0[merged[-1].text] = [
                        size for text in both for size in self.at_least_0.get(text, ())
                    ]
        # What follows a branch that raises is the other one: its variables are seen after it.
        following: list[Statement] = []
        for which in (0, 1):
            if results[1 - which] is None:
                following, branches[which][:] = list(branches[which]), []
        if branches[0] or branches[1]:
            self.builder.add(statement)
        self.builder.block += following
        if results[0] is None:
            for size in self.at_least_0.get(truth.text, ()):
                sizes.assume_at_least_0(size)
        return merged

    @contextmanager
    def _assuming(self, text: str, taken: bool) -> Any:
        self.assumed[text] = taken
        try:
            yield
        finally:
            del self.assumed[text]

    def _merge(
        self, condition: Scalar, branches: list[list[Statement]], a: object, b: object
    ) -> object:
        """Return the value that is `a` if the condition holds, else `b`."""
        if a is UNINITIALISED or b is UNINITIALISED:
            which = 1 if a is UNINITIALISED else 0
            return self._kept(branches[which], (a, b)[which])
        if a is b or (_plain(a) and _plain(b) and type(a) is type(b) and a == b):
            return a
        if isinstance(a, View) and isinstance(b, View) and a.same_elements(b):
            return a
        if is_size(a) and is_size(b) and sizes.equal(a, b) is True:
            return a
        if isinstance(a, Optional) and a.flag == condition.text:
            a = a.value
        if b is None:
            return Optional(condition.text, self._kept(branches[0], a))
        if a is None:
            return Optional(
                self.define("bool", Scalar("bool", f"!{_paren(condition.text)}")).text,
                self._kept(branches[1], b),
            )
        if isinstance(a, Optional) or isinstance(b, Optional):
            return self._merge_optionals(condition, branches, a, b)
        if isinstance(a, ListValue) and isinstance(b, ListValue) and len(a.items) == len(b.items):
            pairs = zip(a.items, b.items, strict=True)
            return ListValue(
                [self._merge(condition, branches, *pair) for pair in pairs], self.scope
            )
        if isinstance(a, DictValue) and isinstance(b, DictValue) and list(a) == list(b):
            return DictValue(
                {key: self._merge(condition, branches, a[key], b[key]) for key in a}, self.scope
            )
        if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
            return tuple(self._merge(condition, branches, *pair) for pair in zip(a, b, strict=True))
        if is_tensor(a) and is_tensor(b):
            return self.merge_tensors(branches, a, b)  # type: ignore[arg-type]
        kinds = {_kind(a), _kind(b)}
        if len(kinds) == 1 and (kind := kinds.pop()):
            return self._merge_scalars(kind, branches, a, b)
        raise self.builder.unsupported(
            "a value that is of one kind in a branch and of another in the other"
        )

    def _kept(self, branch: list[Statement], value: object) -> object:
        """Return a value of a branch in variables that are seen after it."""
        if isinstance(value, ListValue):
            return ListValue([self._kept(branch, item) for item in value.items], self.scope)
        if isinstance(value, tuple):
            return tuple(self._kept(branch, item) for item in value)
        if isinstance(value, DictValue):
            return DictValue({k: self._kept(branch, v) for k, v in value.items()}, self.scope)
        if isinstance(value, Optional):
            with self.builder.inside(branch):
                given = Scalar("bool", value.flag)
            kept = self._variable(branch, "bool", given)
            return Optional(kept.text, self._kept(branch, value.value))
        if isinstance(value, View) and value.storage.kind == "pointer":
            name = self.builder.fresh(value.storage.name)
            storage = Storage(name, value.dtype, value.storage.count, "pointer")
            self.builder.add(Declare(name, "pointer", value.dtype, storage))
            whole = View(value.storage, 0, (value.storage.count,), (1,))
            with self.builder.inside(branch):
                self.builder.add(Assign(name, "pointer", whole, storage))
            return View(storage, value.offset, value.shape, value.strides)
        kind = _kind(value)
        if kind is None or isinstance(value, bool | int | float):
            return value
        return self._variable(branch, kind, value)

    def _variable(self, branch: list[Statement], kind: str, value: object) -> Any:
        """Return a variable that a branch sets."""
        name = self.builder.fresh(self.builder.hint or "value")
        self.builder.add(Declare(name, kind))  # type: ignore[arg-type]
        with self.builder.inside(branch):
            self.builder.add(Assign(name, kind, value))  # type: ignore[arg-type]
        return sizes.symbol(name, None) if kind == "int" else Scalar(kind, name)  # type: ignore[arg-type]

    def _merge_optionals(
        self, condition: Scalar, branches: list[list[Statement]], a: object, b: object
    ) -> object:
        flags = [v.flag if isinstance(v, Optional) else "1" for v in (a, b)]
        values = [v.value if isinstance(v, Optional) else v for v in (a, b)]
        flag = self._merge_scalars("bool", branches, *(Scalar("bool", flag) for flag in flags))
        return Optional(flag.text, self._merge(condition, branches, *values))

    def _merge_scalars(
        self, kind: str, branches: list[list[Statement]], a: object, b: object
    ) -> Any:
        name = self.builder.fresh(self.builder.hint or "value")
        self.builder.add(Declare(name, kind))  # type: ignore[arg-type]
        for branch, value in zip(branches, (a, b), strict=True):
            with self.builder.inside(branch):
                self.builder.add(Assign(name, kind, value))  # type: ignore[arg-type]
        return sizes.symbol(name, None) if kind == "int" else Scalar(kind, name)  # type: ignore[arg-type]

    def merge_tensors(self, branches: list[list[Statement]], a: Tensor, b: Tensor) -> View:
        """Return a tensor that is `a` after the first branch and `b` after the second."""
        if (
            a.dtype != b.dtype
            or len(a.shape) != len(b.shape)
            or not all(sizes.equal(x, y) is True for x, y in zip(a.shape, b.shape, strict=True))
        ):
            raise self.builder.unsupported("the branches give tensors of different dtype or shape")
        places = []
        for branch, value in zip(branches, (a, b), strict=True):
            with self.builder.inside(branch):
                places.append(self.builder.contiguous(value))
                self.places.same(value, places[-1])
        name = self.builder.fresh(self.builder.hint or "t")
        storage = Storage(name, a.dtype, element_count(a.shape), "pointer")
        self.builder.add(Declare(name, "pointer", a.dtype, storage))
        for branch, place in zip(branches, places, strict=True):
            with self.builder.inside(branch):
                self.builder.add(Assign(name, "pointer", place, storage))
        return View(storage, 0, tuple(a.shape), contiguous_strides(a.shape))

    def define(self, kind: str, value: Any) -> Any:
        """Return a new variable with a value, as a scalar (or a symbol for an integer)."""
        name = self.builder.fresh(self.builder.hint or "value")
        self.builder.add(Define(name, kind, value))  # type: ignore[arg-type]
        return sizes.symbol(name, None) if kind == "int" else Scalar(kind, name)  # type: ignore[arg-type]

    # --- loops ---

    def _loop(self, node: Any) -> Sequence[object]:
        most, condition, *start = [self.value(value) for value in node.inputs()]
        (body,) = node.blocks()
        returns = list(body.outputs())
        truth = self.truth(condition)
        if truth is False:
            return start
        if isinstance(most, int) and most <= UNROLLED:
            rounds = self._unrolled(body, most, start)
            if rounds is not None:
                return rounds
        return self._written_loop(node, body, returns, most, truth, start)

    def _unrolled(self, body: Any, most: int, start: list[object]) -> list[object] | None:
        """Run a loop whose rounds are known; None if its end is not known (nothing is kept)."""
        mark, carried, changes = len(self.builder.block), start, self.changes
        index, *parameters = list(body.inputs())
        condition, *results = list(body.outputs())
        for count in range(most):
            self.values[index.unique()] = count
            for parameter, value in zip(parameters, carried, strict=True):
                self.values[parameter.unique()] = value
            self.block(body)
            truth = self.truth(self.value(condition))
            carried = [self.value(value) for value in results]
            if truth is False:
                return carried
            if truth is not True:
                if count or changes != self.changes:
                    raise self.builder.unsupported("a loop whose end is known only in later rounds")
                del self.builder.block[mark:]
                return None
        return carried

    def _written_loop(
        self,
        node: Any,
        body: Any,
        returns: list[Any],
        most: Any,
        truth: bool | Scalar,
        start: list[object],
    ) -> list[object]:
        """Write a loop in C: find what its rounds leave alone, and carry the rest in variables."""
        outer_values, where = dict(self.values), self.builder.where
        index_value, *parameters = list(body.inputs())
        varying = [False] * len(start)
        templates: list[object] = [None] * len(start)
        while True:
            self.values = dict(outer_values)
            temporaries = len(self.builder.temporaries)
            before: list[Statement] = []
            inner: list[Statement] = []
            index = self.builder.fresh(debug_name(index_value) or "step")
            self.values[index_value.unique()] = sizes.symbol(index)
            appended: dict[int, tuple[ListValue, View]] = {}
            self._appended.append(appended)
            with self.builder.inside(before):
                carriers = [
                    self._carrier(debug_name(parameter), value, template) if varies else value
                    for parameter, value, varies, template in zip(
                        parameters, start, varying, templates, strict=True
                    )
                ]
            for parameter, carrier in zip(parameters, carriers, strict=True):
                self.values[parameter.unique()] = carrier
            with self.builder.inside(inner), self._scope("loop"):
                self.loops[sizes.symbol(index)] = most
                try:
                    self.block(body)
                except Raised:
                    raise self.builder.unsupported(
                        "a loop that raises in its first round"
                    ) from None
                finally:
                    del self.loops[sizes.symbol(index)]
                goes_on = self.truth(self.value(returns[0]))
                results = [self.value(value) for value in returns[1:]]
            self._appended.pop()
            changed = [
                not varies and not self._unchanged(carrier, result)
                for carrier, result, varies in zip(carriers, results, varying, strict=True)
            ]
            if not any(changed):
                break
            templates = [r if c else t for r, c, t in zip(results, changed, templates, strict=True)]
            varying = [a or b for a, b in zip(varying, changed, strict=True)]
            del self.builder.temporaries[temporaries:]
            for listed, _ in appended.values():
                listed.items.clear()
        for statement in before:
            self.builder.add(statement)
        flag = ""
        with self.builder.inside(inner):
            self._carry(carriers, results, varying)
            if truth is not True or goes_on is not True:
                flag = self.builder.fresh("more")
                self.builder.add(Assign(flag, "bool", goes_on))
        if flag:
            self.builder.add(Declare(flag, "bool"))
            self.builder.add(Assign(flag, "bool", truth))
        count = most if not (isinstance(most, int) and most >= 2**63 - 1) else 2**63 - 1
        self._place_appended(appended, sizes.symbol(index), count, inner, bool(flag))
        self.builder.add(Loop(index, count, inner, flag, where=where, note="prim::Loop"))
        for listed, view in appended.values():
            self._become_stack(listed, view)
        return [c for c in carriers]

    def _carrier(self, name: str, value: object, template: object = None) -> object:
        """Return a variable that holds a value of the loop, and starts with the one before it.

        A value that is None at first is held by variables like those of `template`, a later one.
        """
        self.builder.hint = name
        if value is UNINITIALISED and template is not None:
            return self._like(name, template)
        if value is None and template is not None:
            inner = template.value if isinstance(template, Optional) else template
            flag = self._carrier(f"{name}_given", False)
            assert isinstance(flag, Scalar)
            return Optional(flag.text, self._like(name, inner))
        if is_tensor(value):
            out = self.builder.temporary(value.dtype, value.shape)  # type: ignore[attr-defined]
            self.builder.copy(value, out)  # type: ignore[arg-type]
            self.places.same(value, out)
            return out
        if isinstance(value, ListValue):
            return ListValue([self._carrier(name, item) for item in value.items], self.scope)
        if isinstance(value, tuple):
            return tuple(self._carrier(name, item) for item in value)
        if (kind := _kind(value)) is not None:
            variable = self.builder.fresh(name or "value")
            self.builder.add(Declare(variable, kind))  # type: ignore[arg-type]
            self.builder.add(Assign(variable, kind, value))  # type: ignore[arg-type]
            return sizes.symbol(variable, None) if kind == "int" else Scalar(kind, variable)  # type: ignore[arg-type]
        raise self.builder.unsupported(
            f"a loop that changes a value of type {type(value).__name__}"
        )

    def _like(self, name: str, value: object) -> object:
        """Return variables for a value of the same kind and shape, without a value yet."""
        self.builder.hint = name
        if is_tensor(value):
            return self.builder.temporary(value.dtype, value.shape)  # type: ignore[attr-defined]
        if isinstance(value, ListValue):
            return ListValue([self._like(name, item) for item in value.items], self.scope)
        if isinstance(value, tuple):
            return tuple(self._like(name, item) for item in value)
        if (kind := _kind(value)) is not None:
            variable = self.builder.fresh(name or "value")
            self.builder.add(Declare(variable, kind))  # type: ignore[arg-type]
            return sizes.symbol(variable, None) if kind == "int" else Scalar(kind, variable)  # type: ignore[arg-type]
        return self._carrier(name, value)

    def _unchanged(self, before: object, after: object) -> bool:
        if before is after:
            return True
        if isinstance(before, View) and isinstance(after, View):
            return before.same_elements(after)
        if isinstance(before, ListValue) and isinstance(after, ListValue):
            return len(before.items) == len(after.items) and all(
                self._unchanged(a, b) for a, b in zip(before.items, after.items, strict=True)
            )
        if isinstance(before, tuple) and isinstance(after, tuple):
            return len(before) == len(after) and all(map(self._unchanged, before, after))
        if isinstance(before, Optional) and isinstance(after, Optional):
            return before.flag == after.flag and self._unchanged(before.value, after.value)
        if is_size(before) and is_size(after):
            return sizes.equal(before, after) is True
        return type(before) is type(after) and _plain(before) and before == after

    def _carry(self, carriers: list[object], results: list[object], varying: list[bool]) -> None:
        """Store the results of a round in the variables of the next, all at once."""
        moves: list[tuple[object, object]] = []
        for carrier, result, varies in zip(carriers, results, varying, strict=True):
            if varies and result is not UNINITIALISED:
                self._pair(carrier, result, moves)
        targets = {id(c.storage) for c, _ in moves if isinstance(c, View)}
        ready: list[tuple[object, object]] = []
        for carrier, result in moves:
            if isinstance(result, OneHot | Concat):
                result = self.builder.materialise(result)
            if isinstance(result, View) and id(result.storage) in targets:
                if not (isinstance(carrier, View) and result.same_elements(carrier)):
                    moved = self.builder.temporary(result.dtype, result.shape)
                    self.builder.copy(result, moved)
                    result = moved
            elif not is_tensor(result):
                variable = self.builder.fresh("next")
                kind = _kind(carrier)
                self.builder.add(Define(variable, kind, result))  # type: ignore[arg-type]
                result = sizes.symbol(variable, None) if kind == "int" else Scalar(kind, variable)  # type: ignore[arg-type]
            ready.append((carrier, result))
        for carrier, result in moves:
            self.places.same(carrier, result, carried=True)
        for carrier, result in ready:
            if isinstance(carrier, View):
                if not (isinstance(result, View) and result.same_elements(carrier)):
                    self.builder.copy(result, carrier)  # type: ignore[arg-type]
            else:
                name = carrier.text if isinstance(carrier, Scalar) else str(carrier)
                self.builder.add(Assign(name, _kind(carrier), result))  # type: ignore[arg-type]

    def _pair(self, carrier: object, result: object, moves: list[tuple[object, object]]) -> None:
        if isinstance(carrier, ListValue) and isinstance(result, ListValue):
            if len(carrier.items) != len(result.items):
                raise self.builder.unsupported("a list that grows in a loop and is used in it")
            for a, b in zip(carrier.items, result.items, strict=True):
                self._pair(a, b, moves)
        elif isinstance(carrier, tuple) and isinstance(result, tuple):
            for a, b in zip(carrier, result, strict=True):
                self._pair(a, b, moves)
        elif isinstance(carrier, Optional):
            given: object = (
                Scalar("bool", result.flag) if isinstance(result, Optional) else result is not None
            )
            moves.append((Scalar("bool", carrier.flag), given))
            if result is not None:
                self._pair(
                    carrier.value, result.value if isinstance(result, Optional) else result, moves
                )
        elif isinstance(carrier, View) and is_tensor(result):
            if result.dtype != carrier.dtype or tuple(result.shape) != tuple(carrier.shape):  # type: ignore[attr-defined]
                raise self.builder.unsupported(
                    f"a tensor that changes its dtype or shape in a loop: {carrier.dtype}"
                    f"{list(carrier.shape)} becomes {result.dtype}{list(result.shape)}"  # type: ignore[attr-defined]
                )
            moves.append((carrier, result))
        elif _kind(carrier) is not None and _kind(carrier) == _kind(result):
            moves.append((carrier, result))
        else:
            raise self.builder.unsupported("a value that changes its type in a loop")

    # --- lists that grow in a loop ---

    def append(self, listed: object, item: object) -> None:
        """Append an item to a list."""
        if isinstance(listed, ListValue) and listed.home == self.scope and stack_of(listed) is None:
            listed.items.append(item)
            self.changes += 1
            return
        if (
            not isinstance(listed, ListValue)
            or listed.items
            or not is_tensor(item)
            or not self._appended
        ):
            raise self.builder.unsupported(
                "a list that grows in a loop or branch in a way that has no C yet"
            )
        if id(listed) in self._appended[-1] or self.scopes[-1][1] != "loop":
            raise self.builder.unsupported(
                "a list that grows more than once in a round of a loop, or in a branch"
            )
        view = self.builder.materialise(item)  # type: ignore[arg-type]
        # A copy of its own, whose place in the stack is known when the loop is complete.
        mine = View(view.storage, view.offset, view.shape, view.strides)
        marker = Elementwise(mine, "copy", (mine,), compute=view.dtype)
        self.builder.add(marker)
        self._appended[-1][id(listed)] = (listed, mine)
        self.changes += 1

    def _place_appended(
        self,
        appended: dict[int, tuple[ListValue, View]],
        index: sympy.Symbol,
        count: Size,
        inner: list[Statement],
        ends_early: bool,
    ) -> None:
        """Let the markers of `append` store into the stacks, which lie outside of the loop."""
        for key, (listed, item) in appended.items():
            if ends_early or (isinstance(count, int) and count >= 2**63 - 1):
                raise self.builder.unsupported("a list that grows in a loop of unknown length")
            self.builder.hint = "steps"
            longest = count if sizes.less(count, 0) is False else sizes.larger(count, 0)
            stacked = self.builder.temporary(item.dtype, (longest, *item.shape))
            for statement in inner:
                if isinstance(statement, Elementwise) and statement.out is item:
                    statement.out = select(stacked, 0, index)
                    self.places.same(item, stacked, at=self.builder.order[statement])
            appended[key] = (listed, stacked)

    def _become_stack(self, listed: ListValue, stacked: View) -> None:
        listed.items = [StackedList(stacked, stacked.shape[0])]


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


def is_weight(value: Tensor) -> bool:
    """Whether a tensor is a constant."""
    return isinstance(value, View) and value.storage.kind == "weight"


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


def _plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str | Scalar | Device)


def _kind(value: object) -> str | None:
    """Return the kind of variable that holds a value: int, float, bool; or None."""
    if isinstance(value, bool):
        return "bool"
    if is_size(value):
        return "int"
    if isinstance(value, float):
        return "float"
    return value.kind if isinstance(value, Scalar) else None


def _paren(text: str) -> str:
    return text if text.isidentifier() else f"({text})"


def _writes(node: Any) -> bool:
    """Whether a node writes to a tensor."""
    kind = node.kind()
    name = kind.partition("::")[2]
    return kind.startswith("aten::") and name.endswith("_") and not name.endswith("__")


def _all_nodes(block: Any) -> Any:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _all_nodes(inner)


def debug_name(value: Any) -> str:
    """Return the name of a value in the model's source, or "" if it has none."""
    name = value.debugName().split(".")[0]
    return "" if name.isdigit() else name


def source_line(node: Any) -> str:
    """Return `file.py:line` of a node, the file without its folders; "" if it is not known."""
    text = str(node.sourceRange())
    for line in text.splitlines():
        line = line.strip()
        if line.startswith('File "'):
            name, _, rest = line[6:].partition('"')
            number = rest.partition("line ")[2].partition(",")[0]
            return f"{name.rpartition('/')[2]}:{number}" if name else ""
    return ""

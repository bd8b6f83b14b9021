"""Making golden cases out of a user's examples, along the batch dimension.

What the cases must be able to see follows from how real ports went wrong: other sizes than the
example's, state that is not zero, more than one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from torchship.script.errors import TorchShipError
from torchship.script.golden import Call, Case, Step
from torchship.script.manifest import Manifest, Method, Node, TensorNode
from torchship.script.tree import Flat, flatten, leaves, map_children, matches

BATCH = "batch"
BATCHES = (1, 2, 5)
STEPS = 3


def derive(method_name: str, method: Method, examples: Sequence[Case]) -> list[Case]:
    """Return further cases: batches 1, 2 and 5, and three steps where there is state.

    Values are taken from the examples' own rows, so they stay in the model's domain.
    """
    if not examples:
        return []
    cases = []
    state_inputs = {state.input for state in method.state}
    if state_inputs:
        for case in examples:
            if len(case.steps) == 1:
                cases.append(_unroll(case, method, state_inputs))
    axes = _batch_axes(method)
    if axes:
        seen = {_batch(case.steps[0].inputs, axes) for case in examples}
        base = max(examples, key=lambda case: _batch(case.steps[0].inputs, axes))
        for size in BATCHES:
            if size not in seen:
                steps = tuple(Step(_resize(step.inputs, axes, size)) for step in base.steps)
                resized = Case(f"batch {size}", method_name, steps)
                if state_inputs and len(steps) == 1:
                    resized = _unroll(resized, method, state_inputs)
                cases.append(resized)
    return cases


def _batch_axes(method: Method) -> dict[str, int]:
    """Return, for each input that has the symbol `batch`, the axis on which it stands."""
    return _axes((argument.value for argument in method.inputs), BATCH)


def _axes(nodes: Iterable[Node], symbol: str) -> dict[str, int]:
    return {
        leaf.name: leaf.shape.index(symbol)
        for node in nodes
        for leaf in leaves(node)
        if isinstance(leaf, TensorNode) and symbol in leaf.shape
    }


def _axis(name: str, axes: Mapping[str, int]) -> int | None:
    return next((axis for pattern, axis in axes.items() if matches(pattern, name)), None)


def _batch(inputs: Flat, axes: Mapping[str, int]) -> int:
    for name, tensor in inputs.items():
        axis = _axis(name, axes)
        if axis is not None:
            return tensor.shape[axis]
    return 0


def _resize(inputs: Flat, axes: Mapping[str, int], size: int) -> Flat:
    """Return the inputs with `size` rows, taken from the rows there are, again and again."""
    resized: Flat = {}
    for name, tensor in inputs.items():
        axis = _axis(name, axes)
        if axis is None or tensor.shape[axis] == 0:
            resized[name] = tensor
        else:
            rows = torch.arange(size) % tensor.shape[axis]
            resized[name] = tensor.index_select(axis, rows)
    return resized


def batch_inputs(manifest: Manifest, cases: Sequence[Case], size: int) -> tuple[str, Flat]:
    """Return the first golden case's method and inputs, with `size` rows where it has a batch."""
    case = cases[0]
    method = manifest.methods[case.method]
    return case.method, _resize(case.steps[0].inputs, _batch_axes(method), size)


def _unroll(case: Case, method: Method, state_inputs: set[str]) -> Case:
    """Return the case with three steps: the same inputs, rolled along the batch, state carried."""
    axes = _batch_axes(method)
    first = case.steps[0].inputs
    steps = [Step(first)]
    for number in range(1, STEPS):
        inputs: Flat = {}
        for name, tensor in first.items():
            if name in state_inputs:
                continue
            axis = _axis(name, axes)
            inputs[name] = tensor if axis is None else tensor.roll(number, axis)
        steps.append(Step(inputs))
    return Case(f"{case.name}, {STEPS} steps", case.method, tuple(steps))


def flatten_example(method: Method, arguments: Mapping[str, object]) -> Flat:
    """Return an example's keyword arguments as flat inputs.

    Raises:
        TypeError: the example names an argument that the signature does not have.
    """
    known = {argument.name: argument.value for argument in method.inputs}
    flat: Flat = {}
    for name, value in arguments.items():
        if name not in known:
            raise TypeError(f"unknown argument '{name}'")
        flat |= flatten(known[name], value)
    return flat


def dimension_names(method: Method) -> set[str]:
    """Return the symbols of a method's inputs."""
    return {
        size
        for argument in method.inputs
        for leaf in leaves(argument.value)
        if isinstance(leaf, TensorNode)
        for size in leaf.shape
        if isinstance(size, str)
    }


def leading_symbol(method: Method) -> str | None:
    """Return the symbol that leads the first tensor input: the one that may be the batch."""
    for argument in method.inputs:
        for leaf in leaves(argument.value):
            if isinstance(leaf, TensorNode) and leaf.shape:
                return leaf.shape[0] if isinstance(leaf.shape[0], str) else None
    return None


def rows_are_independent(call: Call, name: str, method: Method, symbol: str, inputs: Flat) -> bool:
    """Whether each row along `symbol` gives the same outputs alone as among the others.

    Only such a dimension is a batch, along which a server may put requests together.
    """
    axes = _axes((argument.value for argument in method.inputs), symbol)
    output_axes = _axes([method.outputs], symbol)
    if not all(leaf.name in output_axes for leaf in leaves(method.outputs)):
        return False
    try:
        together = call(name, inputs)
        for row in range(_batch(inputs, axes)):
            alone = call(name, _rows(inputs, axes, row))
            if not _nearly(_rows(together, output_axes, row), alone):
                return False
    except TorchShipError:
        return False
    return True


def _rows(flat: Flat, axes: Mapping[str, int], row: int) -> Flat:
    found = {name: _axis(name, axes) for name in flat}
    return {
        name: tensor if found[name] is None else tensor.narrow(found[name] or 0, row, 1)
        for name, tensor in flat.items()
    }


def _nearly(a: Flat, b: Flat) -> bool:
    """Whether outputs are equal up to rounding, which may depend on the number of rows."""
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return False
    for name in a:
        x, y = a[name].double(), b[name].double()
        scale = float(y.abs().nan_to_num(0, 0, 0).max()) if y.numel() else 0.0
        if not torch.allclose(x, y, rtol=1e-3, atol=1e-5 * scale, equal_nan=True):
            return False
    return True


def rename_symbol(method: Method, old: str, new: str) -> Method:
    """Return the method with a symbol renamed in all of its shapes."""

    def renamed(node: Node) -> Node:
        if isinstance(node, TensorNode):
            shape = tuple(new if size == old else size for size in node.shape)
            return node.model_copy(update={"shape": shape})
        return map_children(node, renamed)

    inputs = tuple(
        argument.model_copy(update={"value": renamed(argument.value)}) for argument in method.inputs
    )
    return method.model_copy(update={"inputs": inputs, "outputs": renamed(method.outputs)})

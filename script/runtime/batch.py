"""The batch dimension: finding it, and taking, repeating and resizing its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from torchship.script.errors import TorchShipError
from torchship.script.format.golden import Call, Case
from torchship.script.format.manifest import Manifest, Method
from torchship.script.format.nodes import Leaf, Node, TensorNode, leaves, shape_text
from torchship.script.format.tree import Flat, map_children, matches
from torchship.script.runtime.output_check import SignatureError, input_symbols

BATCH = "batch"


def batch_axes(method: Method) -> dict[str, int]:
    """Return the axis of the symbol `batch` for each input that has it."""
    return axes_of((argument.value for argument in method.inputs), BATCH)


def axes_of(nodes: Iterable[Node], symbol: str) -> dict[str, int]:
    """Return the first axis of a symbol for each leaf that has it."""
    return {
        leaf.name: leaf.shape.index(symbol)
        for node in nodes
        for leaf in leaves(node)
        if isinstance(leaf, TensorNode) and symbol in leaf.shape
    }


def axis_of(name: str, axes: Mapping[str, int]) -> int | None:
    """Return the axis of a flat name, given axes by leaf name; None if it has none."""
    return next((axis for pattern, axis in axes.items() if matches(pattern, name)), None)


def row_count(inputs: Flat, axes: Mapping[str, int]) -> int:
    """Return the batch size of the inputs; 0 if none has the dimension."""
    for name, tensor in inputs.items():
        axis = axis_of(name, axes)
        if axis is not None:
            return tensor.shape[axis]
    return 0


def take_rows(flat: Flat, axes: Mapping[str, int], rows: Sequence[int]) -> Flat:
    """Return the tensors with the selected rows; tensors without rows are unchanged."""
    index = torch.tensor(rows, dtype=torch.int64)
    found = {name: axis_of(name, axes) for name in flat}
    return {
        name: tensor if (axis := found[name]) is None else tensor.index_select(axis, index)
        for name, tensor in flat.items()
    }


def resize(inputs: Flat, axes: Mapping[str, int], size: int) -> Flat:
    """Return the inputs with `size` rows, repeating their rows in turn."""
    resized: Flat = {}
    for name, tensor in inputs.items():
        axis = axis_of(name, axes)
        if axis is None or tensor.shape[axis] == 0:
            resized[name] = tensor
        else:
            rows = torch.arange(size) % tensor.shape[axis]
            resized[name] = tensor.index_select(axis, rows)
    return resized


def batch_inputs(manifest: Manifest, cases: Sequence[Case], size: int) -> tuple[str, Flat]:
    """Return the method and inputs of the first golden case with rows, resized to `size` rows.

    A method without a batch dimension keeps its inputs.
    """

    def has_rows(case: Case) -> bool:
        axes = batch_axes(manifest.methods[case.method])
        return not axes or row_count(case.steps[0].inputs, axes) > 0

    case = next(filter(has_rows, cases), cases[0])
    method = manifest.methods[case.method]
    return case.method, resize(case.steps[0].inputs, batch_axes(method), size)


def leading_symbol(method: Method) -> str | None:
    """Return the first tensor input's leading symbol, the candidate for the batch; or None."""
    for argument in method.inputs:
        for leaf in leaves(argument.value):
            if isinstance(leaf, TensorNode) and leaf.shape:
                return leaf.shape[0] if isinstance(leaf.shape[0], str) else None
    return None


def contradiction(call: Call, name: str, method: Method, inputs: Flat) -> str | None:
    """Return how outputs contradict the signature if a symbol has size 1; None if they do not.

    At size 1, an unqualified `squeeze()` removes an axis that the examples keep. A size that the
    module rejects is not a contradiction.
    """
    nodes = [leaf for argument in method.inputs for leaf in leaves(argument.value)]
    for symbol in sorted(input_symbols(method.inputs)):
        single = {
            name: _single(tensor, next(leaf for leaf in nodes if matches(leaf.name, name)), symbol)
            for name, tensor in inputs.items()
        }
        try:
            call(name, single)
        except SignatureError as error:
            expected = next(o for o in leaves(method.outputs) if matches(o.name, error.output))
            assert isinstance(expected, TensorNode), "the manifest has been checked: all are"
            return (
                f"with {symbol}=1 the output '{error.output}' of {name} has the shape "
                f"{shape_text(error.shape)}: expected {shape_text(expected.shape)}, "
                "as in the examples"
            )
        except TorchShipError:
            continue
    return None


def _single(tensor: torch.Tensor, leaf: Leaf, symbol: str) -> torch.Tensor:
    """Return the tensor with size 1 on every axis that has the symbol."""
    shape = leaf.shape if isinstance(leaf, TensorNode) else ()
    for axis, size in enumerate(shape):
        if size == symbol:
            tensor = tensor.narrow(axis, 0, min(1, tensor.shape[axis]))
    return tensor.contiguous()


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

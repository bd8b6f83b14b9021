"""The batch: which dimension it is, and taking, repeating and resizing its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from torchship.script.eager import same
from torchship.script.errors import TorchShipError
from torchship.script.golden import Call, Case
from torchship.script.manifest import Manifest, Method
from torchship.script.nodes import Leaf, Node, TensorNode, leaves
from torchship.script.program import check_inputs, shape_text
from torchship.script.tree import Flat, map_children, matches

BATCH = "batch"


def batch_axes(method: Method) -> dict[str, int]:
    """Return, for each input that has the symbol `batch`, the axis on which it stands."""
    return _axes((argument.value for argument in method.inputs), BATCH)


def _axes(nodes: Iterable[Node], symbol: str) -> dict[str, int]:
    return {
        leaf.name: leaf.shape.index(symbol)
        for node in nodes
        for leaf in leaves(node)
        if isinstance(leaf, TensorNode) and symbol in leaf.shape
    }


def axis_of(name: str, axes: Mapping[str, int]) -> int | None:
    """Return the axis of a flat name, among axes by leaf name."""
    return next((axis for pattern, axis in axes.items() if matches(pattern, name)), None)


def row_count(inputs: Flat, axes: Mapping[str, int]) -> int:
    """Return the size of the batch in some inputs; 0 if none of them has it."""
    for name, tensor in inputs.items():
        axis = axis_of(name, axes)
        if axis is not None:
            return tensor.shape[axis]
    return 0


def resize(inputs: Flat, axes: Mapping[str, int], size: int) -> Flat:
    """Return the inputs with `size` rows, taken from the rows there are, again and again."""
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
    """Return a golden case's method and inputs, with `size` rows where it has a batch.

    It is the first case with rows to repeat.
    """

    def has_rows(case: Case) -> bool:
        axes = batch_axes(manifest.methods[case.method])
        return not axes or row_count(case.steps[0].inputs, axes) > 0

    case = next(filter(has_rows, cases), cases[0])
    method = manifest.methods[case.method]
    return case.method, resize(case.steps[0].inputs, batch_axes(method), size)


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
    """Whether a row along `symbol` gives the same outputs whatever stands beside it, and alone.

    Only such a dimension is a batch, along which a server may put requests together. Among others
    the outputs must be the same to the bit, since the shapes, and so the kernels, are the same;
    alone they may differ by rounding.
    """
    axes = _axes((argument.value for argument in method.inputs), symbol)
    output_axes = _axes([method.outputs], symbol)
    if not all(leaf.name in output_axes for leaf in leaves(method.outputs)):
        return False
    try:
        together = call(name, inputs)
        for row in range(row_count(inputs, axes)):
            repeated = call(name, _repeat(inputs, axes, row))
            if not _identical(_rows(together, output_axes, row), _rows(repeated, output_axes, row)):
                return False
            alone = call(name, _rows(inputs, axes, row))
            if not _nearly(_rows(together, output_axes, row), alone):
                return False
    except TorchShipError:
        return False
    return True


def contradiction(call: Call, name: str, method: Method, inputs: Flat) -> str | None:
    """Return where outputs contradict the signature once a symbol stands for 1; None if nowhere.

    At that size an unqualified `squeeze()` takes an axis away that the examples did not lose. A
    size that the module rejects is no contradiction.
    """
    nodes = [leaf for argument in method.inputs for leaf in leaves(argument.value)]
    for symbol in sorted(dimension_names(method)):
        single = {
            name: _single(tensor, next(leaf for leaf in nodes if matches(leaf.name, name)), symbol)
            for name, tensor in inputs.items()
        }
        try:
            sizes = check_inputs(method, single)
            outputs = call(name, single)
        except TorchShipError:
            continue
        for leaf in leaves(method.outputs):
            if not isinstance(leaf, TensorNode):
                continue
            expected = [
                sizes.get(size, size) if isinstance(size, str) else size for size in leaf.shape
            ]
            for output, tensor in outputs.items():
                if matches(leaf.name, output) and not _fits(tensor.shape, expected):
                    return (
                        f"with {symbol}=1 the output '{output}' of {name} has the shape "
                        f"{shape_text(tuple(tensor.shape))}: expected {shape_text(leaf.shape)}, "
                        "as in the examples"
                    )
    return None


def _single(tensor: torch.Tensor, leaf: Leaf, symbol: str) -> torch.Tensor:
    """Return the tensor with size 1 wherever its shape has the symbol, which may be twice."""
    shape = leaf.shape if isinstance(leaf, TensorNode) else ()
    for axis, size in enumerate(shape):
        if size == symbol:
            tensor = tensor.narrow(axis, 0, min(1, tensor.shape[axis]))
    return tensor.contiguous()


def _fits(shape: Sequence[int], expected: Sequence[int | str | None]) -> bool:
    """Whether sizes are those expected; a size that is not a number may be any."""
    return len(shape) == len(expected) and all(
        size == known for size, known in zip(shape, expected, strict=True) if isinstance(known, int)
    )


def _rows(flat: Flat, axes: Mapping[str, int], row: int) -> Flat:
    found = {name: axis_of(name, axes) for name in flat}
    return {
        name: tensor if found[name] is None else tensor.narrow(found[name] or 0, row, 1)
        for name, tensor in flat.items()
    }


def _repeat(flat: Flat, axes: Mapping[str, int], row: int) -> Flat:
    """Return the inputs with every row replaced by one of them."""
    repeated: Flat = {}
    for name, tensor in flat.items():
        axis = axis_of(name, axes)
        rows = None if axis is None else torch.full((tensor.shape[axis],), row)
        repeated[name] = tensor if rows is None else tensor.index_select(axis or 0, rows)
    return repeated


def _identical(a: Flat, b: Flat) -> bool:
    return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)


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

"""The check of outputs against the signature, which is the same in every runtime."""

from collections.abc import Mapping

import pytest
import torch

from torchship.script.errors import ModelError
from torchship.script.format.manifest import Argument, Method, Tolerance
from torchship.script.format.nodes import (
    Dimension,
    ListNode,
    Node,
    OptionalNode,
    TensorNode,
    TupleNode,
    leaves,
)
from torchship.script.runtime.output_check import (
    OutputCheck,
    SignatureError,
    sizes_follow_from_shapes,
)


def tensor(name: str, *shape: Dimension, dtype: str = "float32") -> TensorNode:
    return TensorNode(name=name, dtype=dtype, shape=shape)


def method(outputs: Node, *inputs: TensorNode) -> Method:
    return Method(
        inputs=tuple(Argument(name=node.name, required=True, value=node) for node in inputs),
        outputs=outputs,
        tolerances={leaf.name: Tolerance(atol=0, rtol=0) for leaf in leaves(outputs)},
    )


X = tensor("x", "batch", "time")
PAIR = TupleNode(items=(tensor("y", "batch", 3), tensor("z", "width", None)))


@pytest.mark.parametrize(
    ("node", "outputs", "message"),
    [
        (PAIR, {"y": torch.zeros(2, 3), "z": torch.zeros(5, 9)}, ""),
        (PAIR, {"y": torch.zeros(3, 3)}, "output 'y': expected float32[2,3], got float32[3,3]"),
        (PAIR, {"y": torch.zeros(2)}, "output 'y': expected float32[2,3], got float32[2]"),
        (
            PAIR,
            {"y": torch.zeros(2, 3).double()},
            "output 'y': expected float32[2,3], got float64[2,3]",
        ),
        (PAIR, {"z": torch.zeros(5)}, "output 'z': expected float32[width,?], got float32[5]"),
        (tensor("y", "width", "width"), {"y": torch.zeros(4, 4)}, ""),
        (
            tensor("y", "width", "width"),
            {"y": torch.zeros(4, 5)},
            "output 'y': expected float32[4,4], got float32[4,5]",
        ),
        (
            ListNode(element=tensor("y.*", "width")),
            {"y.0": torch.zeros(4), "y.1": torch.zeros(5)},
            "output 'y.1': expected float32[4], got float32[5]",
        ),
        (ListNode(element=tensor("y.*", None)), {"y.0": torch.zeros(4), "y.1": torch.zeros(5)}, ""),
    ],
)
def test_a_symbol_is_one_size_in_each_call(
    node: Node, outputs: Mapping[str, torch.Tensor], message: str
) -> None:
    check = OutputCheck(method(node, X))
    symbols = {"batch": 2, "time": 4}
    for _ in range(2):  # what is known of the sizes of the call before
        if message:
            with pytest.raises(SignatureError) as refused:
                check.check(outputs, symbols)
            assert str(refused.value) == message
            assert isinstance(refused.value, ModelError)
        else:
            check.check(outputs, symbols)


@pytest.mark.parametrize(
    ("node", "follow"),
    [
        (tensor("y", "batch", "time", 3), True),
        (tensor("y", "batch", None), False),
        (tensor("y", "batch", "width"), False),
        (ListNode(element=tensor("y.*", "batch")), False),
        (ListNode(items=(tensor("y.0", "batch"),)), True),
        (OptionalNode(item=tensor("y", "batch")), False),
        (TupleNode(items=(tensor("y", "batch"), OptionalNode(item=tensor("z", "batch")))), False),
    ],
)
def test_whether_sizes_follow_from_shapes_or_may_follow_from_data(node: Node, follow: bool) -> None:
    assert sizes_follow_from_shapes(method(node, X)) is follow

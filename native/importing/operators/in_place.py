"""Operators that write to a tensor in place."""

from __future__ import annotations

from typing import Any

from torchship.native.importing.importer import Importer
from torchship.native.importing.operators.arithmetic import addcmul, arithmetic, lerp
from torchship.native.importing.operators.functions import bounded, masked_fill, unary
from torchship.native.importing.operators.views import full_like
from torchship.native.importing.registry import operator
from torchship.native.importing.values import (
    Full,
    is_tensor,
)
from torchship.native.ir.program import View


@operator("aten::copy_", "aten::fill_", "aten::zero_")
def copy_in_place(importer: Importer, node: Any, arguments: list[Any]) -> object:
    target = _writable(importer, arguments[0])
    if node.kind() == "aten::zero_":
        value: Any = 0
    else:
        value = arguments[1]
    if not is_tensor(value):
        value = Full(value, target.dtype, tuple(target.shape))
    if isinstance(value, View) and value.storage is target.storage:
        value = importer.builder.copied(value)
    _store(importer, full_like(value, target.shape) if isinstance(value, Full) else value, target)
    return target


def _writable(importer: Importer, value: Any) -> View:
    """Return a tensor that is written in place; only what the method made may be."""
    target = importer.builder.materialise(value)
    what = {
        "input": "an input of the method",
        "weight": "a parameter or buffer",
        "pointer": "a tensor that is another one in each branch",
    }.get(target.storage.kind)
    if what is not None:
        note = importer.builder.note
        raise importer.builder.unsupported(f"operator {note} that writes in place to {what}")
    return target


def _store(importer: Importer, value: Any, target: View) -> None:
    importer.places.written(target, importer.builder.copy(value, target))


IN_PLACE = {
    "add_": arithmetic, "sub_": arithmetic, "mul_": arithmetic, "div_": arithmetic,
    "relu_": unary, "sigmoid_": unary, "tanh_": unary, "exp_": unary, "neg_": unary, "abs_": unary,
    "silu_": unary, "hardswish_": unary, "hardsigmoid_": unary, "elu_": unary, "relu6_": unary,
    "masked_fill_": masked_fill, "clamp_": bounded, "leaky_relu_": bounded, "hardtanh_": bounded,
    "clamp_min_": bounded, "clamp_max_": bounded, "addcmul_": addcmul, "lerp_": lerp,
}  # fmt: skip


class _Renamed:
    """A node of the operator that computes what one in place then stores."""

    def __init__(self, node: Any) -> None:
        self._node = node

    def kind(self) -> str:
        kind: str = self._node.kind()
        return kind.removesuffix("_")


@operator(*(f"aten::{name}" for name in IN_PLACE))
def in_place(importer: Importer, node: Any, arguments: list[Any]) -> object:
    target = _writable(importer, arguments[0])
    name = node.kind().partition("::")[2]
    result: Any = IN_PLACE[name](importer, _Renamed(node), [target, *arguments[1:]])
    _store(importer, result, target)
    return target

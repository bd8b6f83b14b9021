"""torch's own recurrent layers and cells, written out as products, sums and a loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchship.native.importing.importer import Importer
from torchship.native.importing.operators.products import linear_of, matmul
from torchship.native.importing.operators.reductions import along
from torchship.native.importing.operators.views import permuted, split_into
from torchship.native.importing.registry import operator
from torchship.native.importing.values import Concat, ListValue, Tensor
from torchship.native.ir import sizes
from torchship.native.ir.layout import select
from torchship.native.ir.program import Loop, Statement, View

State = list[View]
Cell = Callable[[Importer, View, State, Any], State]
"""Importer, one step's projected input [batch, gates * hidden], state, parameters -> state."""


def lstm_gates(importer: Importer, gates: View, c: View) -> State:
    """Return [h, c] of the gates i, f, g, o [batch, 4 * hidden] and the cell state."""
    make = importer.builder.elementwise
    i, f, g, o = split_into(importer, gates, 1, [int(gates.shape[1]) // 4] * 4).items
    i, f, o = (make("sigmoid", [gate], "float32") for gate in (i, f, o))
    g = make("tanh", [g], "float32")
    after = make("fma", [f, c, make("mul", [i, g], "float32")], "float32")
    return [make("mul", [o, make("tanh", [after], "float32")], "float32"), after]


def _lstm_step(importer: Importer, projected: View, state: State, parameters: Any) -> State:
    _, hidden, _, bias = parameters
    from_h = linear_of(importer, state[0], hidden, bias)
    gates = importer.builder.elementwise("add", [projected, from_h], "float32")
    return lstm_gates(importer, gates, state[1])


def _gru_step(importer: Importer, projected: View, state: State, parameters: Any) -> State:
    _, hidden, _, bias = parameters
    make = importer.builder.elementwise
    from_h = linear_of(importer, state[0], hidden, bias)
    size = int(from_h.shape[1]) // 3
    xr, xz, xn = split_into(importer, projected, 1, [size] * 3).items
    hr, hz, hn = split_into(importer, from_h, 1, [size] * 3).items
    r = make("sigmoid", [make("add", [xr, hr], "float32")], "float32")
    z = make("sigmoid", [make("add", [xz, hz], "float32")], "float32")
    n = make("tanh", [make("fma", [r, hn, xn], "float32")], "float32")
    return [make("fma", [z, make("sub", [state[0], n], "float32"), n], "float32")]


def _rnn_step(function: str) -> Cell:
    def step(importer: Importer, projected: View, state: State, parameters: Any) -> State:
        from_h = linear_of(importer, state[0], parameters[1], parameters[3])
        gates = importer.builder.elementwise("add", [projected, from_h], "float32")
        return [importer.builder.elementwise(function, [gates], "float32")]

    return step


CELLS: dict[str, Cell] = {
    "lstm": _lstm_step,
    "gru": _gru_step,
    "rnn_tanh": _rnn_step("tanh"),
    "rnn_relu": _rnn_step("relu"),
}


def over_time(
    importer: Importer, cell: Cell, x: Tensor, start: State, parameters: Any, backward: bool
) -> tuple[View, State]:
    """Return h of all steps [time, batch, hidden] and the last state; x is [time, batch, input]."""
    projected = linear_of(importer, x, parameters[0], parameters[2])
    count, batch = projected.shape[:2]
    hidden = parameters[1].shape[1]
    importer.builder.hint = "steps"
    out = importer.builder.temporary("float32", [count, batch, hidden])
    carriers = []
    for number, value in enumerate(start):
        importer.builder.hint = "hc"[number]
        carrier = importer.builder.temporary("float32", [batch, hidden])
        importer.builder.copy(value, carrier)
        carriers.append(carrier)
    index = importer.builder.fresh("step")
    step = sizes.symbol(index)
    place = sizes.simple(count - 1 - step) if backward else step
    inner: list[Statement] = []
    with importer.builder.inside(inner):
        importer.builder.hint = "gates"
        after = cell(importer, select(projected, 0, place), carriers, parameters)
        importer.builder.copy(after[0], select(out, 0, place))
        for value, carrier in zip(after, carriers, strict=True):
            importer.builder.copy(value, carrier)
    importer.builder.add(Loop(index, count, inner))
    return out, carriers


@operator("aten::lstm", "aten::gru", "aten::rnn_tanh", "aten::rnn_relu")
def recurrent(importer: Importer, node: Any, arguments: list[Any]) -> object:
    name = node.kind().partition("::")[2]
    x, hx, listed, has_biases, layers, _, train, bidirectional, batch_first = arguments
    if importer.truth(train) is not False:
        raise importer.builder.unsupported(f"{name} in training mode")
    states = [
        importer.builder.materialise(s) for s in (hx.items if isinstance(hx, ListValue) else [hx])
    ]
    directions, per = (2 if bidirectional else 1), (4 if has_biases else 2)
    if len(listed.items) != layers * directions * per:
        raise importer.builder.unsupported(f"{name} with a projection")
    sequence: Any = permuted(x, [1, 0, 2]) if batch_first else x
    last: list[State] = []
    for layer in range(layers):
        outs = []
        for direction in range(directions):
            at = layer * directions + direction
            given = listed.items[at * per : (at + 1) * per]
            parameters = given if has_biases else [*given, None, None]
            start = [select(state, 0, at) for state in states]
            out, state = over_time(
                importer, CELLS[name], sequence, start, parameters, direction == 1
            )
            outs.append(out)
            last.append(state)
        sequence = outs[0] if directions == 1 else _side_by_side(importer, outs)
    finals = []
    for number in range(len(states)):
        importer.builder.hint = f"last_{'hc'[number]}"
        shape = [len(last), *last[0][number].shape]
        final = importer.builder.temporary("float32", shape)
        for at, state in enumerate(last):
            importer.builder.copy(state[number], select(final, 0, at))
        finals.append(final)
    return (permuted(sequence, [1, 0, 2]) if batch_first else sequence, *finals)


def _side_by_side(importer: Importer, outs: list[View]) -> View:
    shape = [*outs[0].shape[:2], sizes.simple(outs[0].shape[2] + outs[1].shape[2])]
    importer.builder.hint = "both"
    return importer.builder.materialise(Concat(tuple(outs), 2, "float32", tuple(shape)))


@operator("aten::lstm_cell", "aten::gru_cell", "aten::rnn_tanh_cell", "aten::rnn_relu_cell")
def cell(importer: Importer, node: Any, arguments: list[Any]) -> object:
    name = node.kind().partition("::")[2].removesuffix("_cell")
    x, hx, w_ih, w_hh, b_ih, b_hh = arguments
    states = [
        importer.builder.materialise(s) for s in (hx.items if isinstance(hx, ListValue) else [hx])
    ]
    projected = linear_of(importer, x, w_ih, b_ih)
    after = CELLS[name](importer, projected, states, [w_ih, w_hh, b_ih, b_hh])
    return tuple(after) if name == "lstm" else after[0]


@operator("torchship::lstm_pointwise")
def lstm_pointwise(importer: Importer, node: Any, arguments: list[Any]) -> object:
    gates, c = (importer.builder.materialise(value) for value in arguments)
    return tuple(lstm_gates(importer, gates, c))


@operator("aten::scaled_dot_product_attention")
def attention(importer: Importer, node: Any, arguments: list[Any]) -> object:
    q, k, v, mask, dropout, causal = arguments[:6]
    scale = arguments[6] if len(arguments) > 6 else None
    if importer.truth(causal) is not False or dropout != 0:
        raise importer.builder.unsupported("causal attention or dropout in attention")
    make = importer.builder.elementwise
    if scale is None:
        scale = float(int(q.shape[-1]) ** -0.5)
    axes = list(range(len(k.shape)))
    axes[-2], axes[-1] = axes[-1], axes[-2]
    scores: Any = make("mul", [matmul(importer, q, permuted(k, axes)), scale], "float32")
    if mask is not None:
        if mask.dtype == "bool":
            scores = make("where", [mask, scores, float("-inf")], "float32")
        else:
            scores = make("add", [scores, mask], "float32")
    return matmul(importer, along(importer, "softmax", scores, -1), v)

"""A long short-term memory network written out, the way a scripted recurrent network is written.

The step is a function, its pointwise part a function of its own, the sequence a loop over time:
nothing here is a kernel of a vendor, so a researcher can change any line and script it again.

Source: the design of PyTorch's talk and post "Optimizing CUDA Recurrent Neural Networks with
TorchScript" (2019), https://pytorch.org/blog/optimizing-cuda-rnn-with-torchscript/; the equations
and the symbols i, f, g, o, h, c are those of `torch.nn.LSTM`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from torchship.models.card import Card, Example
from torchship.models.seeding import normal, seeded

INPUT = 24
HIDDEN = 40
SEED = 300

State = tuple[Tensor, Tensor]
"""(h, c): the hidden and the cell state, each [batch, hidden]."""


class LSTMParams(NamedTuple):
    """The weights of a cell. The rows are those of the gates i, f, g, o, one below the other."""

    weight_ih: Tensor  # [4 * hidden, input]
    weight_hh: Tensor  # [4 * hidden, hidden]
    bias_ih: Tensor  # [4 * hidden]
    bias_hh: Tensor  # [4 * hidden]


def lstm_pointwise(gates: Tensor, c: Tensor) -> State:
    """Return (h, c) after the gates have acted: the part of a step that mixes no columns.

    Args:
        gates: float[batch, 4 * hidden], before the nonlinearities, in the order i, f, g, o.
        c: float[batch, hidden], the cell state before the step.
    """
    i, f, g, o = gates.chunk(4, 1)  # four times [batch, hidden]
    i = torch.sigmoid(i)  # input gate: how much of the candidate enters
    f = torch.sigmoid(f)  # forget gate: how much of the old cell state stays
    g = torch.tanh(g)  # candidate
    o = torch.sigmoid(o)  # output gate: how much of the cell shows
    c = f * c + i * g  # [batch, hidden]
    h = o * torch.tanh(c)  # [batch, hidden]
    return h, c


def lstm_cell(x: Tensor, hidden: State, params: LSTMParams) -> State:
    """Return (h, c) one step later.

    Args:
        x: float[batch, input].
        hidden: (h, c), each float[batch, hidden].
        params: the weights.
    """
    h, c = hidden
    gates = nn.functional.linear(x, params.weight_ih, params.bias_ih)  # [batch, 4 * hidden]
    gates = gates + nn.functional.linear(h, params.weight_hh, params.bias_hh)
    return lstm_pointwise(gates, c)


def lstm(x: Tensor, hidden: State | None, params: LSTMParams) -> tuple[Tensor, State]:
    """Return the h of every step, [batch, time, hidden], and the (h, c) of the last.

    Args:
        x: float[batch, time, input], at least one step.
        hidden: the (h, c) to start from, each float[batch, hidden]; zeros when None.
        params: the weights.

    Raises:
        ValueError: `x` or `hidden` has another shape. (In script: torch.jit.Error, same message.)
    """
    features = params.weight_ih.size(1)
    if x.dim() != 3 or x.size(1) == 0 or x.size(2) != features:
        raise ValueError(
            f"x: expected [batch, time, {features}] with at least one step, got {list(x.shape)}"
        )
    start = [x.size(0), params.weight_hh.size(1)]
    if hidden is None:
        zeros = torch.zeros(start, dtype=x.dtype, device=x.device)
        hidden = (zeros, zeros)
    if list(hidden[0].shape) != start or list(hidden[1].shape) != start:
        raise ValueError(
            f"hidden: expected (h, c) of {start} each, "
            f"got {list(hidden[0].shape)} and {list(hidden[1].shape)}"
        )
    outputs: list[Tensor] = []
    for x_t in x.unbind(1):  # [batch, input]
        hidden = lstm_cell(x_t, hidden, params)
        outputs.append(hidden[0])
    return torch.stack(outputs, 1), hidden  # [batch, time, hidden]


class LSTM(nn.Module):
    """One layer over a batch of sequences; agrees with `nn.LSTM(..., batch_first=True)`."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(4 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(4 * hidden_size))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden_size**-0.5), hidden_size**-0.5)

    def forward(self, x: Tensor, hidden: State | None = None) -> tuple[Tensor, State]:
        """Return the h of every step, float32[batch, time, hidden], and the (h, c) of the last.

        Args:
            x: float32[batch, time, input], at least one step.
            hidden: the (h, c) to start from, each float32[batch, hidden]; zeros when left out.

        Raises:
            ValueError: `x` or `hidden` has another shape.
        """
        params = LSTMParams(self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return lstm(x, hidden, params)


def make_lstm() -> LSTM:
    """Return LSTM(24, 40) in eval mode: 10,560 parameters, seeded (see `seeding.seeded`)."""
    return seeded(lambda: LSTM(INPUT, HIDDEN), SEED)


# --- the card ---


def examples() -> dict[str, list[Example]]:
    """Return sequences at batch 1, 2, 5 and several lengths, most of them in three pieces."""

    def x(seed: int, batch: int, time: int) -> Tensor:
        return normal(seed, batch, time, INPUT)

    def hidden(seed: int, batch: int, scale: float = 0.5) -> State:
        h = normal(seed, batch, HIDDEN, scale=scale)
        return h, normal(seed + 1, batch, HIDDEN, scale=scale)

    return {
        "forward": [
            [{"x": x(311, 1, 3)}, {"x": x(312, 1, 5)}, {"x": x(313, 1, 1)}],
            [
                {"x": x(321, 2, 4), "hidden": hidden(322, 2)},
                {"x": x(324, 2, 4)},
                {"x": x(325, 2, 7)},
            ],
            [
                {"x": x(331, 5, 6), "hidden": hidden(332, 5)},
                {"x": x(334, 5, 2)},
                {"x": x(335, 5, 3)},
            ],
            [{"x": x(341, 2, 1)}],
            [
                {"x": x(351, 2, 3) * 1e4, "hidden": hidden(352, 2, 1e4)},
                {"x": torch.zeros(2, 2, INPUT)},
            ],
        ]
    }


CARD = Card(
    name="lstm",
    description="A scripted LSTM(24, 40) over sequences: every step's output and the last state",
    source="PyTorch, Optimizing CUDA Recurrent Neural Networks with TorchScript (2019)",
    factory=make_lstm,
    examples=examples,
    dims={"x.0": "batch", "x.1": "time", "hidden.0.0": "batch", "hidden.1.0": "batch"},
    outputs={"forward": ["output", "hidden"]},
    state={
        "forward": [("hidden.0", "hidden.0", "absent"), ("hidden.1", "hidden.1", "absent")],
    },
)

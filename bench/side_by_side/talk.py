"""Recurrent networks of the talk's sizes: 64 steps, 128 inputs, 256 hidden units.

Source of the sizes: PyTorch's post "Optimizing CUDA Recurrent Neural Networks with TorchScript"
(2019). The cells are those of `torchship.models.cells`, and one that only this benchmark has.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from torchship.models.card import Example
from torchship.models.cells import Cell, LNLSTMCell, LSTMCell, MILSTMCell, uniform
from torchship.models.recurrent import Recurrent, around_one
from torchship.models.seeding import normal, seeded
from torchship.script.exporting.target import Target, find_target

STEPS, INPUT, HIDDEN = 64, 128, 256
CELLS = ("lstm", "milstm", "lnlstm", "coupled")


class CoupledCell(Cell):
    """A cell that no paper has, as a user would write one; its products are as large as an LSTM's.

    The gates are normalised over each row; the input gate is what the forget gate leaves; an
    attention gate, which sees the cell as a peephole does, scales what the output shows of it.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=4, states=2)
        self.norm = nn.LayerNorm(4 * hidden_size)
        self.weight_c = uniform(hidden_size, hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """Return float[time, batch, 4 * hidden] of x [time, batch, input]."""
        return linear(x, self.weight_ih)

    def forward(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return [h, c] one step later, [batch, hidden]; `projected` is [batch, 4 * hidden]."""
        h, c = state[0], state[1]
        gates: Tensor = self.norm(projected + linear(h, self.weight_hh))  # [batch, 4 * hidden]
        f, g, o, a = gates.chunk(4, 1)  # four times [batch, hidden]
        c = torch.lerp(torch.tanh(g), c, torch.sigmoid(f))  # [batch, hidden]
        a = torch.sigmoid(torch.addcmul(a, self.weight_c, c))
        return [torch.sigmoid(o) * torch.tanh(a * c), c]


def lstm() -> Recurrent:
    return seeded(lambda: Recurrent(LSTMCell, INPUT, HIDDEN), 1)


def milstm() -> Recurrent:
    model = seeded(lambda: Recurrent(MILSTMCell, INPUT, HIDDEN), 2)
    return around_one(model, "alpha", "beta1", "beta2")


def lnlstm() -> Recurrent:
    model = seeded(lambda: Recurrent(LNLSTMCell, INPUT, HIDDEN), 3)
    return around_one(model, "norm_ih.weight", "norm_hh.weight", "norm_c.weight")


def coupled() -> Recurrent:
    model = seeded(lambda: Recurrent(CoupledCell, INPUT, HIDDEN), 4)
    return around_one(model, "norm.weight")


def examples() -> list[Example]:
    """Return short sequences: what is compiled takes any batch and any number of steps."""
    return [[{"x": normal(10 + n, n, n + 2, INPUT)}] for n in (1, 2, 3)]


def target(cell: str) -> Target:
    """Return a cell's network for the exporter."""
    found = find_target(f"{__name__}:{cell}", f"{__name__}:examples", {})
    dims = {"x.0": "batch", "x.1": "time"}
    return replace(found, name=f"talk_{cell}", dims=dims, outputs={"forward": ["output", "hidden"]})


def vendor_lstm(ours: Recurrent, batch_first: bool) -> nn.LSTM:
    """Return the `nn.LSTM` with the weights of our LSTM."""
    layer = ours.layers[0]
    vendor = nn.LSTM(ours.input_size, ours.hidden_size, batch_first=batch_first).eval()
    weights = {f"{name}_l0": value for name, value in layer.cell.state_dict().items()}  # type: ignore[union-attr]
    vendor.load_state_dict(weights)
    return vendor

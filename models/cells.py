"""Recurrent cells: what happens in one step. The loop over time is in `recurrent`.

A cell does its work in two parts. `project` takes the whole sequence and does what the state has no
part in, above all one large matrix product instead of one small one per step; `forward` is the rest
of a step. The state is a list whose first tensor is h, the one that is the step's output.

Symbols as in `torch.nn.LSTM` and `torch.nn.GRU`: i, f, g, o are the input gate, forget gate,
candidate and output gate; r, z, n the reset gate, update gate and candidate. Gates lie side by
side, in this order. Nothing here is a kernel of a vendor: change any line and script it again.
(`FusedLSTMCell` has a kernel, our own: `cpp_runner/ops/`.)

Sums of a product and something else are written as a sum, not as `torch.addmm`: TorchScript's
executor would take that apart, and round twice where eager Python rounds once.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from torchship.models import operators

State = tuple[Tensor, Tensor]
"""(h, c): the hidden and the cell state, each [batch, hidden]."""


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


def uniform(hidden_size: int, *shape: int) -> nn.Parameter:
    """Return float32[*shape], uniform in (-1, 1) / sqrt(hidden_size), as torch's cells start."""
    bound = hidden_size**-0.5
    return nn.Parameter(nn.init.uniform_(torch.empty(shape), -bound, bound))


class Cell(nn.Module):
    """What the loop needs of a cell: two methods, and how many tensors its state has."""

    input_size: int
    hidden_size: int
    states: int  # 1: h; 2: h, c

    def __init__(self, input_size: int, hidden_size: int, gates: int, states: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.states = input_size, hidden_size, states
        self.weight_ih = uniform(hidden_size, gates * hidden_size, input_size)
        self.weight_hh = uniform(hidden_size, gates * hidden_size, hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """Return float[time, batch, any]: each step's share of the input x [time, batch, input]."""
        raise NotImplementedError

    def forward(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return the state one step later; `projected` is [batch, any], one step of `project`'s."""
        raise NotImplementedError


class GRUCell(Cell):
    """A gated recurrent unit, as `nn.GRU` has it: r acts after the matrix product.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder" (2014), in the
    form of `torch.nn.GRU`, whose parameters' names, shapes and order these are.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=3, states=1)
        self.bias_ih = uniform(hidden_size, 3 * hidden_size)
        self.bias_hh = uniform(hidden_size, 3 * hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """Return float[time, batch, 3 * hidden] of x [time, batch, input]."""
        return linear(x, self.weight_ih, self.bias_ih)

    def forward(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return [h] one step later, [batch, hidden]; `projected` is [batch, 3 * hidden]."""
        h = state[0]
        from_x = projected.chunk(3, 1)  # three times [batch, hidden]
        from_h = linear(h, self.weight_hh, self.bias_hh).chunk(3, 1)
        r = torch.sigmoid(from_x[0] + from_h[0])
        z = torch.sigmoid(from_x[1] + from_h[1])
        n = torch.tanh(torch.addcmul(from_x[2], r, from_h[2]))
        return [torch.lerp(n, h, z)]  # (1 - z) n + z h


class LSTMCell(Cell):
    """A long short-term memory with a forget gate.

    Source: Hochreiter & Schmidhuber, "Long Short-Term Memory" (1997), in the form of
    `torch.nn.LSTM`, whose parameters' names, shapes and order these are.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=4, states=2)
        self.bias_ih = uniform(hidden_size, 4 * hidden_size)
        self.bias_hh = uniform(hidden_size, 4 * hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """Return float[time, batch, 4 * hidden] of x [time, batch, input], with both biases."""
        return linear(x, self.weight_ih, self.bias_ih + self.bias_hh)

    def forward(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return [h, c] one step later, [batch, hidden]; `projected` is [batch, 4 * hidden]."""
        gates = projected + linear(state[0], self.weight_hh)  # [batch, 4 * hidden]
        h, c = lstm_pointwise(gates, state[1])
        return [h, c]


class FusedLSTMCell(LSTMCell):
    """An `LSTMCell` whose gates act in one custom operator, `torchship::lstm_pointwise`.

    One pass over the memory, and one call instead of eleven. What it returns differs from
    `lstm_pointwise` above in the last bits alone; `docs/models.md` says by how much.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """Make a cell.

        Raises:
            OperatorsMissingError: the operator's library is not there.
        """
        super().__init__(input_size, hidden_size)
        operators.load()

    def forward(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return [h, c] one step later, [batch, hidden]; `projected` is [batch, 4 * hidden]."""
        gates = projected + linear(state[0], self.weight_hh)  # [batch, 4 * hidden]
        h, c = torch.ops.torchship.lstm_pointwise(gates, state[1])
        return [h, c]


class PeepholeCell(LSTMCell):
    """An LSTM whose gates see the cell state: i and f the one before the step, o the one after it.

    Source: Gers & Schmidhuber, "Recurrent Nets that Time and Count" (2000); with the tanh at the
    cell's output, as in Graves, "Generating Sequences With Recurrent Neural Networks" (2013), whose
    symbols the weights have. They are diagonal: a gate sees its own unit's cell alone.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ci = uniform(hidden_size, hidden_size)
        self.weight_cf = uniform(hidden_size, hidden_size)
        self.weight_co = uniform(hidden_size, hidden_size)

    def forward(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return [h, c] one step later, [batch, hidden]; `projected` is [batch, 4 * hidden]."""
        h, c = state[0], state[1]
        gates = projected + linear(h, self.weight_hh)  # [batch, 4 * hidden]
        i, f, g, o = gates.chunk(4, 1)  # four times [batch, hidden]
        i = torch.sigmoid(torch.addcmul(i, self.weight_ci, c))
        f = torch.sigmoid(torch.addcmul(f, self.weight_cf, c))
        c = f * c + i * torch.tanh(g)
        o = torch.sigmoid(torch.addcmul(o, self.weight_co, c))
        return [o * torch.tanh(c), c]


class MILSTMCell(Cell):
    """An LSTM in which input and state also multiply each other: no vendor's kernel has it.

    The gates are alpha * Wx * Uh + beta1 * Uh + beta2 * Wx + b, where the others add Wx and Uh.

    Source: Wu et al., "On Multiplicative Integration with Recurrent Neural Networks" (2016).
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=4, states=2)
        self.alpha = nn.Parameter(torch.ones(4 * hidden_size))
        self.beta1 = nn.Parameter(torch.ones(4 * hidden_size))
        self.beta2 = nn.Parameter(torch.ones(4 * hidden_size))
        self.bias = uniform(hidden_size, 4 * hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """Return float[time, batch, 8 * hidden]: what Uh is multiplied by, and what is added.

        The gates are a linear function of Uh: (alpha * Wx + beta1) * Uh + (beta2 * Wx + b).
        """
        wx = linear(x, self.weight_ih)  # [time, batch, 4 * hidden]
        factor = torch.addcmul(self.beta1, self.alpha, wx)
        summand = torch.addcmul(self.bias, self.beta2, wx)
        return torch.cat([factor, summand], 2)  # [time, batch, 8 * hidden]

    def forward(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return [h, c] one step later, [batch, hidden]; `projected` is [batch, 8 * hidden]."""
        uh = linear(state[0], self.weight_hh)  # [batch, 4 * hidden]
        factor, summand = projected.chunk(2, 1)  # twice [batch, 4 * hidden]
        h, c = lstm_pointwise(torch.addcmul(summand, factor, uh), state[1])
        return [h, c]


class LNLSTMCell(Cell):
    """An LSTM that normalises, over the features of each row, Wx, Uh, and the cell that it shows.

    The cell state itself stays as it is. The paper's bias b is left out: it would only be added to
    the biases that the two normalisations have.

    Source: Ba, Kiros & Hinton, "Layer Normalization" (2016), equations 20 to 22.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=4, states=2)
        self.norm_ih = nn.LayerNorm(4 * hidden_size)
        self.norm_hh = nn.LayerNorm(4 * hidden_size)
        self.norm_c = nn.LayerNorm(hidden_size)

    def project(self, x: Tensor) -> Tensor:
        """Return float[time, batch, 4 * hidden] of x [time, batch, input], normalised."""
        projected: Tensor = self.norm_ih(linear(x, self.weight_ih))
        return projected

    def forward(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return [h, c] one step later, [batch, hidden]; `projected` is [batch, 4 * hidden]."""
        h, c = state[0], state[1]
        gates = projected + self.norm_hh(linear(h, self.weight_hh))  # [batch, 4 * hidden]
        i, f, g, o = gates.chunk(4, 1)  # four times [batch, hidden]
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(self.norm_c(c))
        return [h, c]

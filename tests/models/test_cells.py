"""One step at a time: each cell against torch's own, or against its paper's formulas in NumPy."""

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchship.models.cells import (
    Cell,
    GRUCell,
    LNLSTMCell,
    LSTMCell,
    MILSTMCell,
    PeepholeCell,
    lstm_pointwise,
)
from torchship.models.seeding import normal

Script = Callable[[nn.Module], torch.jit.ScriptModule]
Array = NDArray[np.float64]
AnyCell = TypeVar("AnyCell", bound=Cell)
Weights = dict[str, Array]
Step = Callable[[Weights, Array, Array, Array], tuple[Array, Array]]

CELLS = [GRUCell, LSTMCell, PeepholeCell, MILSTMCell, LNLSTMCell]


def filled(cell: AnyCell) -> AnyCell:
    """Fill every parameter, also those that begin at 0 or 1, and go over to float64."""
    with torch.no_grad():
        for number, parameter in enumerate(cell.parameters()):
            parameter.copy_(normal(100 + number, *parameter.shape))
    return cell.double()


def start(cell: Cell, batch: int) -> list[Tensor]:
    return [normal(200 + k, batch, cell.hidden_size).double() for k in range(cell.states)]


def unroll(cell: nn.Module, x: Tensor, state: list[Tensor]) -> list[list[Tensor]]:
    """Return the state after each step of x [time, batch, input]."""
    project = cell.project
    assert callable(project)
    after = []
    for projected in project(x):
        state = cell(projected, state)
        after.append(state)
    return after


# --- the papers' formulas, one number at a time ---


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def dot(row: Array, vector: Array) -> float:
    return sum(float(row[k]) * float(vector[k]) for k in range(len(vector)))


def peephole_step(w: Weights, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """Graves (2013), equations 7 to 11."""
    size = len(h)
    bias = w["bias_ih"] + w["bias_hh"]

    def net(gate: int, j: int) -> float:
        row = gate * size + j
        return dot(w["weight_ih"][row], x) + dot(w["weight_hh"][row], h) + float(bias[row])

    h_new, c_new = np.zeros(size), np.zeros(size)
    for j in range(size):
        i = sigmoid(net(0, j) + w["weight_ci"][j] * c[j])
        f = sigmoid(net(1, j) + w["weight_cf"][j] * c[j])
        c_new[j] = f * c[j] + i * math.tanh(net(2, j))
        o = sigmoid(net(3, j) + w["weight_co"][j] * c_new[j])
        h_new[j] = o * math.tanh(c_new[j])
    return h_new, c_new


def milstm_step(w: Weights, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """Wu et al. (2016), equation 4 in each of the four gates."""
    size = len(h)

    def net(gate: int, j: int) -> float:
        r = gate * size + j
        wx, uh = dot(w["weight_ih"][r], x), dot(w["weight_hh"][r], h)
        return float(
            w["alpha"][r] * wx * uh + w["beta1"][r] * uh + w["beta2"][r] * wx + w["bias"][r]
        )

    h_new, c_new = np.zeros(size), np.zeros(size)
    for j in range(size):
        c_new[j] = sigmoid(net(1, j)) * c[j] + sigmoid(net(0, j)) * math.tanh(net(2, j))
        h_new[j] = sigmoid(net(3, j)) * math.tanh(c_new[j])
    return h_new, c_new


def layer_norm(values: list[float], gain: Array, bias: Array) -> list[float]:
    """Ba et al. (2016), equation 4, with the 1e-5 of torch's below the root."""
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values) + 1e-5)
    return [
        float(gain[k]) * (value - mean) / deviation + float(bias[k])
        for k, value in enumerate(values)
    ]


def lnlstm_step(w: Weights, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """Ba et al. (2016), equations 20 to 22."""
    size = len(h)
    wx = [dot(row, x) for row in w["weight_ih"]]
    uh = [dot(row, h) for row in w["weight_hh"]]
    wx = layer_norm(wx, w["norm_ih.weight"], w["norm_ih.bias"])
    uh = layer_norm(uh, w["norm_hh.weight"], w["norm_hh.bias"])
    i, f, g, o = ([wx[k * size + j] + uh[k * size + j] for j in range(size)] for k in range(4))
    c_new = [sigmoid(f[j]) * c[j] + sigmoid(i[j]) * math.tanh(g[j]) for j in range(size)]
    shown = layer_norm(c_new, w["norm_c.weight"], w["norm_c.bias"])
    return np.array([sigmoid(o[j]) * math.tanh(shown[j]) for j in range(size)]), np.array(c_new)


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize(
    ("make", "step"),
    [(PeepholeCell, peephole_step), (MILSTMCell, milstm_step), (LNLSTMCell, lnlstm_step)],
)
@pytest.mark.parametrize(("input_size", "hidden_size"), [(3, 5), (7, 4), (4, 4)])
def test_four_steps_agree_with_the_paper(
    make: Callable[[int, int], Cell],
    step: Step,
    input_size: int,
    hidden_size: int,
    scripted: bool,
    script: Script,
) -> None:
    cell = filled(make(input_size, hidden_size))
    weights = {name: p.detach().numpy() for name, p in cell.named_parameters()}
    x, state = normal(1, 4, 3, input_size).double(), start(cell, 3)
    with torch.no_grad():
        states = unroll(script(Projectable(cell)) if scripted else cell, x, state)
    for row in range(3):
        h, c = state[0][row].numpy(), state[1][row].numpy()
        for t in range(4):
            h, c = step(weights, x[t, row].numpy(), h, c)
            np.testing.assert_allclose(states[t][0][row].numpy(), h, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(states[t][1][row].numpy(), c, rtol=1e-10, atol=1e-12)


class Projectable(nn.Module):
    """A cell with `project` among what is compiled."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        after: list[Tensor] = self.cell(projected, state)
        return after

    @torch.jit.export
    def project(self, x: Tensor) -> Tensor:
        return self.cell.project(x)


@pytest.mark.parametrize(("input_size", "hidden_size"), [(3, 5), (4, 4)])
def test_lstm_takes_torchs_weights_and_agrees_with_it(input_size: int, hidden_size: int) -> None:
    cell = filled(LSTMCell(input_size, hidden_size))
    theirs = nn.LSTMCell(input_size, hidden_size).double()
    theirs.load_state_dict(cell.state_dict())
    x, state = normal(2, 3, 2, input_size).double(), start(cell, 2)
    h, c = state
    for t, came in enumerate(unroll(cell, x, state)):
        h, c = theirs(x[t], (h, c))
        torch.testing.assert_close(came, [h, c], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("input_size", "hidden_size"), [(3, 5), (4, 4)])
def test_gru_takes_torchs_weights_and_agrees_with_it(input_size: int, hidden_size: int) -> None:
    cell = filled(GRUCell(input_size, hidden_size))
    theirs = nn.GRUCell(input_size, hidden_size).double()
    theirs.load_state_dict(cell.state_dict())
    x, state = normal(3, 3, 2, input_size).double(), start(cell, 2)
    h = state[0]
    for t, came in enumerate(unroll(cell, x, state)):
        h = theirs(x[t], h)
        torch.testing.assert_close(came, [h], rtol=1e-10, atol=1e-12)


def test_without_its_peepholes_a_peephole_cell_is_an_lstm() -> None:
    cell, lstm = filled(PeepholeCell(3, 5)), LSTMCell(3, 5).double()
    lstm.load_state_dict({n: t for n, t in cell.state_dict().items() if "weight_c" not in n})
    for name, parameter in cell.named_parameters():
        if "weight_c" in name:
            nn.init.zeros_(parameter)
    x, state = normal(4, 3, 2, 3).double(), start(cell, 2)
    torch.testing.assert_close(unroll(cell, x, state), unroll(lstm, x, state))


def test_without_its_products_a_multiplicative_cell_is_an_lstm() -> None:
    cell, lstm = filled(MILSTMCell(3, 5)), LSTMCell(3, 5).double()
    with torch.no_grad():
        for parameter, value in ((cell.alpha, 0), (cell.beta1, 1), (cell.beta2, 1)):
            parameter.fill_(value)
    weights = {n: cell.get_parameter(n).detach() for n in ("weight_ih", "weight_hh")}
    bias = {"bias_ih": cell.bias.detach(), "bias_hh": torch.zeros(20).double()}
    lstm.load_state_dict(weights | bias)
    x, state = normal(5, 3, 2, 3).double(), start(cell, 2)
    torch.testing.assert_close(unroll(cell, x, state), unroll(lstm, x, state))


def test_the_gates_come_in_the_order_i_f_g_o() -> None:
    """With one gate open and the others shut, only one path through the cell is left."""
    c = torch.tensor([[0.5]])
    open_, shut = 100.0, -100.0

    def step(i: float, f: float, g: float, o: float) -> tuple[float, float]:
        h, new = lstm_pointwise(torch.tensor([[i, f, g, o]]), c)
        return h.item(), new.item()

    assert step(shut, open_, 0.7, open_) == pytest.approx((np.tanh(0.5), 0.5))
    assert step(open_, shut, 0.7, open_) == pytest.approx((np.tanh(np.tanh(0.7)), np.tanh(0.7)))
    assert step(open_, open_, -0.7, shut) == pytest.approx((0.0, 0.5 - np.tanh(0.7)))


@pytest.mark.parametrize("make", CELLS)
def test_a_cell_starts_as_torchs_do(make: Callable[[int, int], Cell]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cell = make(3, 16)
    for name, parameter in cell.named_parameters():
        values = parameter.detach()
        if name in ("alpha", "beta1", "beta2") or (name[:4] == "norm" and name[-6:] == "weight"):
            assert bool((values == 1).all()), name
        elif name[:4] == "norm":
            assert bool((values == 0).all()), name
        else:
            assert float(values.min()) >= -0.25, name
            assert float(values.max()) <= 0.25, name
            assert float(values.max() - values.min()) > 0.35, name


def test_an_unfinished_cell_raises_not_implemented() -> None:
    cell = Cell(3, 5, gates=4, states=2)
    with pytest.raises(NotImplementedError):
        cell.project(torch.zeros(1, 1, 3))
    with pytest.raises(NotImplementedError):
        cell(torch.zeros(1, 20), [torch.zeros(1, 5)])

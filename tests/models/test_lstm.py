from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from torchship.models.lstm import (
    LSTM,
    LSTMParams,
    lstm_cell,
    lstm_pointwise,
    make_lstm,
)
from torchship.models.seeding import normal, seeded

Script = Callable[[nn.Module], torch.jit.ScriptModule]
Array = NDArray[np.float64]


def pair(input_size: int = 24, hidden_size: int = 40) -> tuple[LSTM, nn.LSTM]:
    """Return our LSTM and torch's with the same weights."""
    ours = seeded(lambda: LSTM(input_size, hidden_size), 1)
    theirs = nn.LSTM(input_size, hidden_size, batch_first=True)
    theirs.load_state_dict({f"{name}_l0": t for name, t in ours.state_dict().items()})
    return ours, theirs


def params(module: LSTM) -> LSTMParams:
    return LSTMParams(module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def numpy_step(x: Array, h: Array, c: Array, w: dict[str, Array]) -> tuple[Array, Array]:
    """One step in float64, unit by unit from the equations in the documentation of nn.LSTM."""
    size = h.shape[1]
    gates = []
    for k in range(4):
        rows = slice(k * size, (k + 1) * size)
        gates.append(
            np.einsum("bi,oi->bo", x, w["weight_ih"][rows])
            + w["bias_ih"][rows]
            + np.einsum("bi,oi->bo", h, w["weight_hh"][rows])
            + w["bias_hh"][rows]
        )
    i, f, g, o = sigmoid(gates[0]), sigmoid(gates[1]), np.tanh(gates[2]), sigmoid(gates[3])
    c = f * c + i * g
    return o * np.tanh(c), c


@pytest.mark.parametrize(("batch", "time"), [(1, 1), (1, 6), (2, 3), (5, 11)])
@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("scripted", [False, True])
def test_agrees_with_torchs_lstm(
    batch: int, time: int, start: bool, scripted: bool, script: Script
) -> None:
    ours, theirs = pair()
    module = script(ours) if scripted else ours
    x = normal(2, batch, time, 24)
    h, c = normal(3, batch, 40), normal(4, batch, 40)
    output, (h_n, c_n) = module(x, (h, c)) if start else module(x)
    expected, (h_e, c_e) = theirs(x, (h[None], c[None])) if start else theirs(x)
    assert output.shape == (batch, time, 40)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(h_n, h_e[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(c_n, c_e[0], rtol=1e-5, atol=1e-6)


def test_a_step_agrees_with_the_equations_in_numpy() -> None:
    module, _ = pair()
    weights = {n: p.detach().double().numpy() for n, p in module.named_parameters()}
    x, h, c = normal(5, 3, 24), normal(6, 3, 40), normal(7, 3, 40)
    with torch.no_grad():
        came = lstm_cell(x, (h, c), params(module))
    h_e, c_e = numpy_step(x.double().numpy(), h.double().numpy(), c.double().numpy(), weights)
    np.testing.assert_allclose(came[0].numpy(), h_e, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(came[1].numpy(), c_e, rtol=1e-5, atol=1e-6)


def test_a_step_agrees_with_torchs_cell() -> None:
    module, _ = pair()
    cell = nn.LSTMCell(24, 40)
    cell.load_state_dict(module.state_dict())
    x, h, c = normal(8, 3, 24), normal(9, 3, 40), normal(10, 3, 40)
    came, expected = lstm_cell(x, (h, c), params(module)), cell(x, (h, c))
    torch.testing.assert_close(came[0], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(came[1], expected[1], rtol=1e-5, atol=1e-6)


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


@pytest.mark.parametrize("scripted", [False, True])
def test_gradients_agree_with_torchs(scripted: bool, script: Script) -> None:
    ours, theirs = pair()
    x, h, c = normal(11, 2, 5, 24), normal(12, 2, 40), normal(13, 2, 40)
    weight_o, weight_c = normal(14, 2, 5, 40), normal(15, 2, 40)

    def gradients(module: nn.Module, lead: bool) -> list[Tensor]:
        leaves = [t.clone().requires_grad_() for t in (x, h, c)]
        state = (leaves[1][None], leaves[2][None]) if lead else (leaves[1], leaves[2])
        output, (_, last) = module(leaves[0], state)
        loss = (output * weight_o).sum() + (last.reshape(2, 40) * weight_c).sum()
        return list(torch.autograd.grad(loss, [*leaves, *module.parameters()]))

    module = script(ours) if scripted else ours
    for _ in range(3):  # the executor differentiates the graph anew once it has seen it run
        for came, expected in zip(gradients(module, False), gradients(theirs, True), strict=True):
            torch.testing.assert_close(came, expected, rtol=1e-4, atol=1e-6)


@given(time=st.integers(2, 9), cut=st.data())
@settings(deadline=None, max_examples=20)
def test_a_sequence_can_be_cut_anywhere(time: int, cut: st.DataObject) -> None:
    at = cut.draw(st.integers(1, time - 1))
    module = make_lstm()
    x = normal(time, 2, time, 24)
    with torch.no_grad():
        whole, (h, c) = module(x)
        first, state = module(x[:, :at])
        second, (h_2, c_2) = module(x[:, at:], state)
    assert torch.equal(torch.cat([first, second], 1), whole)
    assert torch.equal(h_2, h)
    assert torch.equal(c_2, c)


def test_an_absent_state_is_zeros() -> None:
    module = make_lstm()
    x, zeros = normal(20, 3, 4, 24), torch.zeros(3, 40)
    assert torch.equal(module(x)[0], module(x, (zeros, zeros))[0])


@pytest.mark.parametrize("shape", [(2, 24), (2, 0, 24), (2, 3, 40), (1, 2, 3, 24)])
@pytest.mark.parametrize("scripted", [False, True])
def test_a_wrong_input_is_named(shape: tuple[int, ...], scripted: bool, script: Script) -> None:
    module = script(make_lstm()) if scripted else make_lstm()
    error = torch.jit.Error if scripted else ValueError
    with pytest.raises(error) as raised:
        module(torch.zeros(shape))
    assert f"x: expected [batch, time, 24] with at least one step, got {list(shape)}" in str(
        raised.value
    )


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("wrong", [(1, 40), (2, 24), (40,)])
def test_a_wrong_state_is_named(wrong: tuple[int, ...], scripted: bool, script: Script) -> None:
    """A state of one row would be broadcast to all of them, silently."""
    module = script(make_lstm()) if scripted else make_lstm()
    error = torch.jit.Error if scripted else ValueError
    with pytest.raises(error) as raised:
        module(torch.zeros(2, 3, 24), (torch.zeros(2, 40), torch.zeros(wrong)))
    expected = f"hidden: expected (h, c) of [2, 40] each, got [2, 40] and {list(wrong)}"
    assert expected in str(raised.value)


def test_an_own_lstm_starts_as_torchs_does() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = LSTM(3, 16)
    for parameter in module.parameters():
        assert 0.2 < float(parameter.detach().abs().max()) <= 0.25

"""The loop and the layers: against torch's networks, and against themselves cut to pieces."""

from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from torchship.models import recurrent
from torchship.models.cells import (
    Cell,
    GRUCell,
    LNLSTMCell,
    LSTMCell,
    MILSTMCell,
    PeepholeCell,
    uniform,
)
from torchship.models.recurrent import Layer, Recurrent
from torchship.models.seeding import normal

Script = Callable[[nn.Module], torch.jit.ScriptModule]
Make = Callable[[int, int], Cell]

CELLS: list[Make] = [GRUCell, LSTMCell, PeepholeCell, MILSTMCell, LNLSTMCell]
FACTORIES = [
    recurrent.make_lstm,
    recurrent.make_gru,
    recurrent.make_milstm,
    recurrent.make_lnlstm,
    recurrent.make_peephole,
]


class ElmanCell(Cell):
    """A researcher's own cell: h = tanh(W x + b + U h)."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, gates=1, states=1)
        self.bias_ih = uniform(hidden_size, hidden_size)
        self.bias_hh = uniform(hidden_size, hidden_size)

    def project(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight_ih, self.bias_ih + self.bias_hh)

    def forward(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        return [torch.tanh(projected + nn.functional.linear(state[0], self.weight_hh))]


TORCHS: list[tuple[Make, type[nn.RNNBase]]] = [
    (LSTMCell, nn.LSTM),
    (GRUCell, nn.GRU),
    (ElmanCell, nn.RNN),
]


def pair(
    make: Make,
    theirs: type[nn.RNNBase],
    layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = True,
    sizes: tuple[int, int] = (3, 5),
) -> tuple[Recurrent, nn.RNNBase]:
    """Return our network and torch's with the same weights, in float64."""
    ours = filled(Recurrent(make, *sizes, layers, bidirectional, batch_first))
    options = {"bidirectional": bidirectional, "batch_first": batch_first}
    torchs = theirs(*sizes, layers, **options).double()  # type: ignore[arg-type]
    ends = ["", "_reverse"] if bidirectional else [""]
    for number, (depth, end) in enumerate(product(range(layers), ends)):
        for name, parameter in ours.layers[number].cell.named_parameters():  # type: ignore[union-attr]
            torchs.get_parameter(f"{name}_l{depth}{end}").data.copy_(parameter.data)
    return ours, torchs


def filled(module: Recurrent) -> Recurrent:
    """Fill every parameter, also those that begin at 0 or 1, and go over to float64."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(normal(100 + number, *parameter.shape))
    return module.double().eval()


def state_of(module: Recurrent, batch: int, seed: int = 200) -> list[Tensor]:
    shape = (len(module.layers), batch, module.hidden_size)
    return [normal(seed + k, *shape).double() for k in range(module.states)]


def of_torch(
    module: nn.RNNBase, x: Tensor, hidden: list[Tensor] | None, lengths: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Run torch's network with our arguments and results."""
    given = None if hidden is None else tuple(hidden) if len(hidden) == 2 else hidden[0]
    if lengths is None:
        output, last = module(x, given)
    else:
        first = module.batch_first
        packed = pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=False)
        output, last = module(packed, given)
        output, _ = pad_packed_sequence(output, first, total_length=x.size(1 if first else 0))
    return output, list(last) if isinstance(last, tuple) else [last]


# --- against torch ---


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("make", "theirs"), TORCHS)
def test_agrees_with_torchs_network(
    make: Make,
    theirs: type[nn.RNNBase],
    layers: int,
    bidirectional: bool,
    batch_first: bool,
    scripted: bool,
    script: Script,
) -> None:
    ours, torchs = pair(make, theirs, layers, bidirectional, batch_first)
    module = script(ours) if scripted else ours
    directions = 2 if bidirectional else 1
    for batch, time, lengths in (
        (1, 1, None),
        (1, 6, None),
        (4, 5, None),
        (4, 5, torch.tensor([2, 5, 1, 4])),
        (3, 7, torch.tensor([3, 1, 6])),
        (1, 4, torch.tensor([2])),
    ):
        x = normal(2, batch, time, 3).double()
        x = x if batch_first else x.transpose(0, 1)
        for hidden in (None, state_of(ours, batch)):
            came, last = module(x, hidden, lengths)
            expected, expected_last = of_torch(torchs, x, hidden, lengths)
            assert came.shape == (*x.shape[:2], directions * 5)
            torch.testing.assert_close(came, expected, rtol=1e-10, atol=1e-12)
            torch.testing.assert_close(last, expected_last, rtol=1e-10, atol=1e-12)


def test_agrees_with_torchs_network_where_input_and_state_have_one_size() -> None:
    """A transposed weight would still fit there."""
    for make, theirs in TORCHS:
        ours, torchs = pair(make, theirs, 2, sizes=(4, 4))
        x = normal(3, 2, 5, 4).double()
        torch.testing.assert_close(ours(x), of_torch(torchs, x, None, None), rtol=1e-10, atol=0)


def test_agrees_with_torchs_lstm_in_float32() -> None:
    ours, theirs = recurrent.make_lstm(), nn.LSTM(24, 40, batch_first=True)
    theirs.load_state_dict({f"{n[14:]}_l0": t for n, t in ours.state_dict().items()})
    x = normal(4, 3, 20, 24)
    came, last = ours(x)
    expected, expected_last = of_torch(theirs, x, None, None)
    torch.testing.assert_close(came, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last, expected_last, rtol=1e-5, atol=1e-6)


# --- gradients ---


def gradients(
    run: Callable[[Tensor, list[Tensor]], tuple[Tensor, list[Tensor]]],
    parameters: list[nn.Parameter],
    x: Tensor,
    hidden: list[Tensor],
) -> list[Tensor]:
    """Return the gradients of a weighted sum of all results, by x, hidden and the parameters."""
    leaves = [t.clone().requires_grad_() for t in (x, *hidden)]
    output, last = run(leaves[0], leaves[1:])
    results = [output, *last]
    loss = torch.stack([(t * normal(300 + k, *t.shape)).sum() for k, t in enumerate(results)]).sum()
    return list(torch.autograd.grad(loss, [*leaves, *parameters]))


@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 5, 1])])
@pytest.mark.parametrize("make", CELLS)
def test_gradients_through_script_are_those_of_eager(
    make: Make, lengths: Tensor | None, script: Script
) -> None:
    module = filled(Recurrent(make, 3, 5, 2, bidirectional=True))
    scripted = script(module)
    x, hidden = normal(5, 3, 5, 3).double(), state_of(module, 3)
    expected = gradients(lambda x, h: module(x, h, lengths), list(module.parameters()), x, hidden)
    assert all(bool((tensor != 0).any()) for tensor in expected)
    for _ in range(3):  # the executor differentiates the graph anew once it has seen it run
        came = gradients(lambda x, h: scripted(x, h, lengths), [*scripted.parameters()], x, hidden)
        torch.testing.assert_close(came, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lengths", [None, torch.tensor([2, 5, 1])])
@pytest.mark.parametrize(("make", "theirs"), TORCHS)
def test_gradients_agree_with_torchs(
    make: Make, theirs: type[nn.RNNBase], lengths: Tensor | None
) -> None:
    ours, torchs = pair(make, theirs, 2, bidirectional=True)
    x, hidden = normal(6, 3, 5, 3).double(), state_of(ours, 3)
    came = gradients(lambda x, h: ours(x, h, lengths), list(ours.parameters()), x, hidden)
    expected = gradients(
        lambda x, h: of_torch(torchs, x, h, lengths), list(torchs.parameters()), x, hidden
    )
    torch.testing.assert_close(came, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("make", CELLS)
def test_gradients_agree_with_finite_differences(make: Make) -> None:
    module = filled(Recurrent(make, 2, 3, bidirectional=True))
    names = [name for name, _ in module.named_parameters()]
    x, hidden = normal(7, 2, 3, 2).double(), state_of(module, 2)
    weights = [parameter.detach().clone() for parameter in module.parameters()]
    inputs = [tensor.requires_grad_() for tensor in (x, *hidden, *weights)]

    def call(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        held, given = list(rest[: len(hidden)]), rest[len(hidden) :]
        arguments = (x, held, torch.tensor([3, 2]))
        output, last = torch.func.functional_call(
            module, dict(zip(names, given, strict=True)), arguments
        )
        return output, *last

    assert torch.autograd.gradcheck(call, inputs)


# --- sequences in pieces, rows of many lengths ---


@pytest.mark.parametrize("make", CELLS)
@given(time=st.integers(2, 9), cut=st.data())
@settings(deadline=None, max_examples=15)
def test_a_sequence_can_be_cut_anywhere(make: Make, time: int, cut: st.DataObject) -> None:
    at = cut.draw(st.integers(1, time - 1))
    module = filled(Recurrent(make, 3, 5, 2))
    x, hidden = normal(time, 2, time, 3).double(), state_of(module, 2)
    with torch.no_grad():
        whole, last = module(x, hidden)
        first, carried = module(x[:, :at], hidden)
        second, last_2 = module(x[:, at:], carried)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(last_2, last, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize("make", CELLS)
def test_a_step_at_a_time_is_the_whole_sequence(make: Make, scripted: bool, script: Script) -> None:
    module = filled(Recurrent(make, 3, 5, 2))
    run = script(module) if scripted else module
    x = normal(8, 2, 6, 3).double()
    hidden: list[Tensor] | None = None
    with torch.no_grad():
        whole, last = run(x)
        for t in range(6):
            output, hidden = run(x[:, t : t + 1], hidden)
            torch.testing.assert_close(output[:, 0], whole[:, t], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(hidden, last, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", CELLS)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), start=st.booleans())
@settings(deadline=None, max_examples=15)
def test_a_row_with_a_length_is_the_row_cut_there(
    make: Make, lengths: list[int], start: bool
) -> None:
    """Both directions, two layers; NaN after a row's last step is not even seen."""
    module = filled(Recurrent(make, 3, 5, 2, bidirectional=True))
    x = normal(9, len(lengths), 6, 3).double()
    for row, length in enumerate(lengths):
        x[row, length:] = torch.nan
    hidden = state_of(module, len(lengths)) if start else None
    with torch.no_grad():
        output, last = module(x, hidden, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            one = slice(row, row + 1)
            begin = None if hidden is None else [item[:, one] for item in hidden]
            alone, alone_last = module(x[one, :length], begin)
            torch.testing.assert_close(output[one, :length], alone, rtol=1e-10, atol=1e-12)
            assert bool((output[one, length:] == 0).all())
            own = [item[:, one] for item in last]
            torch.testing.assert_close(own, alone_last, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("make", CELLS)
def test_a_nan_beyond_a_row_reaches_no_gradient(make: Make) -> None:
    module = filled(Recurrent(make, 3, 5, 2, bidirectional=True))
    x = normal(10, 2, 4, 3).double()
    x[1, 2:] = torch.nan
    x.requires_grad_()
    output, _ = module(x, None, torch.tensor([4, 2]))
    grads = torch.autograd.grad(output.sum(), [x, *module.parameters()])
    assert all(bool(torch.isfinite(gradient).all()) for gradient in grads)


@pytest.mark.parametrize("make", CELLS)
def test_full_lengths_and_a_zero_state_are_what_is_left_out(make: Make) -> None:
    module = filled(Recurrent(make, 3, 5, 2, bidirectional=True))
    x = normal(11, 3, 4, 3).double()
    zeros = [torch.zeros(4, 3, 5).double() for _ in range(module.states)]
    expected = module(x)
    torch.testing.assert_close(module(x, zeros), expected, rtol=0, atol=0)
    torch.testing.assert_close(module(x, None, torch.tensor([4, 4, 4])), expected, rtol=0, atol=0)


def test_a_layer_in_reverse_is_a_layer_over_the_reversed_sequence() -> None:
    cell = LSTMCell(3, 5)
    x, state = normal(12, 6, 2, 3), [normal(13, 2, 5), normal(14, 2, 5)]
    forward, last = Layer(cell)(x.flip(0), state)
    backward, last_2 = Layer(cell, reverse=True)(x, state)
    assert torch.equal(backward, forward.flip(0))
    assert all(torch.equal(a, b) for a, b in zip(last_2, last, strict=True))


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that reach the kernels."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        self.seen[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("make", "most"),
    [(GRUCell, 11), (LSTMCell, 13), (PeepholeCell, 16), (MILSTMCell, 14), (LNLSTMCell, 15)],
)
def test_a_step_without_lengths_masks_nothing_and_multiplies_once(make: Make, most: int) -> None:
    """At batch 1 each operation costs about the same, whatever it does."""
    module = Recurrent(make, 3, 5)

    def count(time: int) -> Counter[str]:
        operations = Operations()
        with torch.no_grad(), operations:
            module(torch.zeros(1, time, 3))
        return operations.seen

    whole, step = count(5), count(5) - count(4)
    assert not {"where", "masked_fill", "arange"} & whole.keys()
    assert step["mm"] + step["addmm"] == 1
    assert whole["mm"] + whole["addmm"] == 5 + 1
    assert step.total() <= most, step


def test_an_empty_batch_gives_an_empty_batch() -> None:
    for make in CELLS:
        module = Recurrent(make, 3, 5, 2, bidirectional=True)
        lengths = torch.zeros(0, dtype=torch.int64)
        for given_lengths in (None, lengths):
            output, last = module(torch.zeros(0, 4, 3), None, given_lengths)
            assert output.shape == (0, 4, 10)
            assert [item.shape for item in last] == [(4, 0, 5)] * module.states


@pytest.mark.parametrize("make", FACTORIES)
def test_the_networks_tell_inputs_apart(make: Callable[[], Recurrent]) -> None:
    """Seeded factors near 0 would make every output alike."""
    module = make()
    with torch.no_grad():
        output, _ = module(normal(15, 16, 8, 24))
    assert float(output.std(0).mean()) > 0.04
    assert float(output[:, 1:].sub(output[:, :-1]).abs().mean()) > 0.02
    for name, parameter in module.named_parameters():
        if name.rpartition(".")[2] in ("alpha", "beta1", "beta2"):
            assert abs(float(parameter.detach().mean()) - 1) < 0.1, name
        elif "norm" in name:
            centre = 1 if name.endswith("weight") else 0
            assert abs(float(parameter.detach().mean()) - centre) < 0.1, name


# --- what is refused ---

X, H = torch.zeros(2, 3, 24), torch.zeros(1, 2, 40)
REFUSED: list[tuple[dict[str, object], str]] = [
    (
        {"x": X[0]},
        "x: expected [batch, time, 24] with at least one step, got [3, 24]",
    ),
    (
        {"x": X[None]},
        "x: expected [batch, time, 24] with at least one step, got [1, 2, 3, 24]",
    ),
    (
        {"x": X[:, :0]},
        "x: expected [batch, time, 24] with at least one step, got [2, 0, 24]",
    ),
    (
        {"x": X[:, :, :9]},
        "x: expected [batch, time, 24] with at least one step, got [2, 3, 9]",
    ),
    ({"x": X.double()}, "x: expected the dtype of the weights, got another dtype"),
    ({"x": X, "hidden": [H]}, "hidden: expected a list of 2, got 1"),
    ({"x": X, "hidden": [H, H, H]}, "hidden: expected a list of 2, got 3"),
    (
        {"x": X, "hidden": [H[:, :1], H]},  # would be broadcast, silently
        "hidden[0]: expected [1, 2, 40], got [1, 1, 40]",
    ),
    ({"x": X, "hidden": [H, H[0]]}, "hidden[1]: expected [1, 2, 40], got [2, 40]"),
    ({"x": X, "hidden": [H, X]}, "hidden[1]: expected [1, 2, 40], got [2, 3, 24]"),
    (
        {"x": X, "hidden": [H, H.double()]},
        "hidden[1]: expected the dtype of x, got another dtype",
    ),
    (
        {"x": X, "lengths": torch.tensor([1.0, 2.0])},
        "lengths: expected dtype int64, got another dtype",
    ),
    (
        {"x": X, "lengths": torch.tensor([1, 2], dtype=torch.int32)},
        "lengths: expected dtype int64, got another dtype",
    ),
    ({"x": X, "lengths": torch.tensor([3])}, "lengths: expected [2], got [1]"),
    ({"x": X, "lengths": torch.tensor([[3, 1]])}, "lengths: expected [2], got [1, 2]"),
    ({"x": X, "lengths": torch.tensor([3, 0])}, "lengths: expected 1 to 3, got 0"),
    ({"x": X, "lengths": torch.tensor([-1, 2])}, "lengths: expected 1 to 3, got -1"),
    ({"x": X, "lengths": torch.tensor([1, 4])}, "lengths: expected 1 to 3, got 4"),
]


@pytest.mark.parametrize("scripted", [False, True])
def test_what_does_not_fit_is_named(scripted: bool, script: Script) -> None:
    module = script(recurrent.make_lstm()) if scripted else recurrent.make_lstm()
    error = torch.jit.Error if scripted else ValueError
    for arguments, message in REFUSED:
        with pytest.raises(error) as raised:
            module(**arguments)
        lines = str(raised.value).splitlines()
        assert any(line.endswith(message) for line in lines), (message, lines)


@pytest.mark.parametrize("scripted", [False, True])
def test_time_first_counts_and_names_its_own_axes(scripted: bool, script: Script) -> None:
    network = Recurrent(GRUCell, 3, 5, batch_first=False)
    module = script(network) if scripted else network
    with pytest.raises(torch.jit.Error if scripted else ValueError) as raised:
        module(torch.zeros(0, 2, 3))
    expected = "x: expected [time, batch, 3] with at least one step, got [0, 2, 3]"
    assert expected in str(raised.value)
    output, last = module(torch.zeros(4, 0, 3))
    assert output.shape == (4, 0, 5)
    assert last[0].shape == (1, 0, 5)


@pytest.mark.parametrize("sizes", [(0, 5, 1), (3, 0, 1), (3, 5, 0)])
def test_a_network_of_nothing_is_refused(sizes: tuple[int, int, int]) -> None:
    expected = f"of 1 or more, got {sizes[0]}, {sizes[1]} and {sizes[2]}"
    with pytest.raises(ValueError, match=expected):
        Recurrent(GRUCell, *sizes)

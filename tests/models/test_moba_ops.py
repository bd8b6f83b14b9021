"""moba's operations one by one, each beside a reference that is written as plain loops.

The stream's port is a C library that writes into its caller's buffers, and its tests look for what
goes wrong there: sides mistaken for each other, two random tensors that are equal, what an earlier
call left behind, memory that nothing was written to.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import one_hot

from torchship.models.moba import LSTMCell, Moba, observation
from torchship.models.seeding import integers, normal, seeded

Script = Callable[[nn.Module], torch.jit.ScriptModule]
Array = NDArray[np.float64]
HEADS = (7, 7, 3, 2, 2, 2)

both_runtimes = pytest.mark.parametrize("scripted", [False, True], ids=["eager", "script"])


# --- the references ---


def linear(x: Array, weight: Array, bias: Array) -> Array:
    out = np.empty((len(x), len(weight)))
    for b, o in np.ndindex(out.shape):
        out[b, o] = bias[o] + sum(x[b, i] * weight[o, i] for i in range(x.shape[1]))
    return out


def conv2d(x: Array, weight: Array, bias: Array, stride: int) -> Array:
    """Cross-correlation without padding: [batch, in, height, width] -> [batch, out, ...]."""
    kernel_y, kernel_x = weight.shape[2:]
    height = (x.shape[2] - kernel_y) // stride + 1
    width = (x.shape[3] - kernel_x) // stride + 1
    out = np.empty((len(x), len(weight), height, width))
    for b, o, i, j in np.ndindex(out.shape):
        top, left = i * stride, j * stride
        window = x[b, :, top : top + kernel_y, left : left + kernel_x]
        out[b, o, i, j] = bias[o] + (window * weight[o]).sum()
    return out


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def lstm_cell(
    x: Array, h: Array, c: Array, w_ih: Array, b_ih: Array, w_hh: Array, b_hh: Array
) -> tuple[Array, Array]:
    """One step; unit k's gates i, f, g, o are rows k, hidden + k, 2 hidden + k, 3 hidden + k."""
    gates = linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh)
    new_h, new_c = np.empty_like(h), np.empty_like(c)
    hidden = h.shape[1]
    for b, k in np.ndindex(h.shape):
        i, f, g, o = (float(gates[b, gate * hidden + k]) for gate in range(4))
        new_c[b, k] = sigmoid(f) * c[b, k] + sigmoid(i) * math.tanh(g)
        new_h[b, k] = sigmoid(o) * math.tanh(new_c[b, k])
    return new_h, new_c


def one_hot_planes(kind: NDArray[Any], classes: int) -> Array:
    """A new last axis: 1 at the class, 0 elsewhere."""
    out = np.zeros((*kind.shape, classes))
    for place in np.ndindex(kind.shape):
        out[place][int(kind[place])] = 1
    return out


def concatenation(parts: Sequence[Array], axis: int) -> Array:
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    out = np.empty(shape)
    start = 0
    for part in parts:
        for place in np.ndindex(part.shape):
            to = list(place)
            to[axis] += start
            out[tuple(to)] = part[place]
        start += part.shape[axis]
    return out


def head_choices(logits: Array) -> NDArray[np.int64]:
    """[batch, 23] -> [batch, 6]: where each head is largest; of equal ones the first."""
    out = np.full((len(logits), len(HEADS)), -1)
    for b, row in enumerate(logits):
        start = 0
        for head, size in enumerate(HEADS):
            best = 0
            for choice in range(1, size):
                if row[start + choice] > row[start + best]:
                    best = choice
            out[b, head] = best
            start += size
    return out


def relu(x: Array) -> Array:
    return np.where(x > 0, x, 0.0)


def whole_forward(
    w: dict[str, Array], obs: NDArray[np.uint8], h: Array, c: Array
) -> tuple[Array, Array, Array, Array]:
    """The policy out of the references above: logits, value, h, c."""
    cells = obs[:, :484].reshape(-1, 11, 11, 4)
    planes = [one_hot_planes(cells[..., 0], 16), cells[..., 1:] / 255]
    field = concatenation(planes, 3).transpose(0, 3, 1, 2)  # [batch, 19, 11, 11]
    x = relu(conv2d(field, w["conv1.weight"], w["conv1.bias"], 3))  # [batch, 32, 3, 3]
    x = conv2d(x, w["conv2.weight"], w["conv2.bias"], 1)  # [batch, 32, 1, 1]
    y = linear(obs[:, 484:] / 255, w["extra.weight"], w["extra.bias"])  # [batch, 32]
    x = relu(concatenation([x[:, :, 0, 0], y], 1))  # [batch, 64]
    x = relu(linear(x, w["proj.weight"], w["proj.bias"]))  # [batch, 128]
    cell = (w[f"lstm.{part}.{kind}"] for part in ("ih", "hh") for kind in ("weight", "bias"))
    h, c = lstm_cell(x, h, c, *cell)
    logits = linear(h, w["actor.weight"], w["actor.bias"])
    return logits, linear(h, w["value.weight"], w["value.bias"]), h, c


# --- the operations, as moba has them ---


class OneHot(nn.Module):
    """uint8[...] -> float32[..., 16]."""

    def forward(self, kind: Tensor) -> Tensor:
        return one_hot(kind.long(), 16).float()


class Concatenation(nn.Module):
    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], self.axis)


def arrays(module: nn.Module) -> dict[str, Array]:
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


@dataclass(frozen=True)
class Op:
    """An operation: its module, inputs of any seed, and what its outputs must be."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    reference: Callable[[dict[str, Array], list[Array]], tuple[Array, ...]]


def _linear(w: dict[str, Array], x: list[Array]) -> tuple[Array, ...]:
    return (linear(x[0], w["weight"], w["bias"]),)


def _conv(stride: int) -> Callable[[dict[str, Array], list[Array]], tuple[Array, ...]]:
    return lambda w, x: (conv2d(x[0], w["weight"], w["bias"], stride),)


def kinds(seed: int) -> Tensor:
    """uint8[2, 3, 5] of classes, the first and the last one among them."""
    kind = integers(seed, 16, 2, 3, 5)
    kind[0, 0, 0], kind[1, 2, 4] = 15, 0
    return kind


OPS = {
    "linear": Op(
        lambda: seeded(lambda: nn.Linear(7, 5), 801), lambda s: (normal(s, 3, 7),), _linear
    ),
    "moba's extra": Op(lambda: policy().extra, lambda s: (normal(s, 5, 26),), _linear),
    "conv2d 5x5 stride 3": Op(
        lambda: seeded(lambda: nn.Conv2d(3, 4, 5, stride=3), 802),
        lambda s: (normal(s, 2, 3, 14, 23),),
        _conv(3),
    ),
    "conv2d 3x3": Op(
        lambda: seeded(lambda: nn.Conv2d(3, 4, 3), 803),
        lambda s: (normal(s, 2, 3, 5, 8),),
        _conv(1),
    ),
    "moba's conv1": Op(lambda: policy().conv1, lambda s: (normal(s, 2, 19, 8, 14),), _conv(3)),
    "moba's conv2": Op(lambda: policy().conv2, lambda s: (normal(s, 2, 32, 3, 5),), _conv(1)),
    "LSTM cell": Op(
        lambda: seeded(lambda: LSTMCell(5, 9), 804),
        lambda s: (normal(s, 4, 5), normal(s + 1, 4, 9), normal(s + 2, 4, 9)),
        lambda w, x: lstm_cell(
            *x, *(w[f"{part}.{kind}"] for part in ("ih", "hh") for kind in ("weight", "bias"))
        ),
    ),
    "one-hot": Op(
        OneHot, lambda s: (kinds(s),), lambda _, x: (one_hot_planes(x[0], 16),)
    ),
    "concatenation of planes": Op(
        lambda: Concatenation(3),
        lambda s: (normal(s, 2, 3, 5, 16), normal(s + 1, 2, 3, 5, 3)),
        lambda _, x: (concatenation(x, 3),),
    ),
    "concatenation of features": Op(
        lambda: Concatenation(1),
        lambda s: (normal(s, 4, 3), normal(s + 1, 4, 6)),
        lambda _, x: (concatenation(x, 1),),
    ),
}  # fmt: skip


def policy() -> Moba:
    """A policy whose weights are larger than the card's, so that every layer matters."""
    module = seeded(Moba, 78)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    return module


@pytest.fixture(params=OPS)
def op(request: pytest.FixtureRequest) -> Op:
    return OPS[request.param]


def call(module: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        outputs = module(*inputs)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def assert_agree(came: Sequence[Tensor], expected: Sequence[NDArray[Any]]) -> None:
    for tensor, array in zip(came, expected, strict=True):
        assert tuple(tensor.shape) == array.shape
        np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-5, atol=1e-5)


# --- poison ---


@contextmanager
def poisoned(*outputs: Tensor) -> Iterator[None]:
    """Memory that is handed out unwritten holds NaN, or the largest integer.

    Torch fills what `torch.empty` gives. What a kernel takes by another way is likely to be of a
    block that was just freed, so blocks of the outputs' sizes are filled (0xff.. is NaN) and freed.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    for _ in range(3):
        blocks = [torch.full((t.nbytes,), 255, dtype=torch.uint8) for t in (*outputs, *outputs)]
        del blocks
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class Unwritten(nn.Module):
    """Forgets the last column of its output."""

    def forward(self, x: Tensor) -> Tensor:
        out = torch.empty(x.shape, dtype=x.dtype)
        out[:, :-1] = x[:, :-1]
        return out


@both_runtimes
def test_the_poison_shows_where_nothing_was_written(scripted: bool, script: Script) -> None:
    module = script(Unwritten()) if scripted else Unwritten()
    x = normal(810, 4, 3)
    with poisoned(x):
        (floats,), (longs,) = call(module, [x]), call(module, [x.long()])
    assert torch.equal(floats[:, :-1], x[:, :-1])
    assert bool(floats[:, -1].isnan().all())
    assert longs[:, -1].tolist() == [torch.iinfo(torch.int64).max] * 4


# --- the tests ---


@both_runtimes
def test_the_operation_agrees_with_its_reference(op: Op, scripted: bool, script: Script) -> None:
    module = op.make()
    weights = arrays(module)
    runs = script(module) if scripted else module
    for seed in (820, 830, 840, 850):  # the executor rewrites a scripted graph while it runs
        inputs = op.inputs(seed)
        expected = op.reference(weights, [x.double().numpy() for x in inputs])
        given = [x.clone() for x in inputs]
        with poisoned(*(torch.from_numpy(array).float() for array in expected)):
            came = call(runs, inputs)
        assert_agree(came, expected)
        assert all(torch.equal(x, y) for x, y in zip(inputs, given, strict=True))


@both_runtimes
def test_a_second_call_leaves_the_first_ones_outputs_alone(
    op: Op, scripted: bool, script: Script
) -> None:
    module = script(op.make()) if scripted else op.make()
    for seed in (860, 870):
        first = call(module, op.inputs(seed))
        kept = [tensor.clone() for tensor in first]
        second = call(module, op.inputs(seed + 5))
        for one, same, other in zip(first, kept, second, strict=True):
            assert torch.equal(one, same)
            assert not torch.equal(one, other), "the two calls had different inputs"
            assert one.data_ptr() != other.data_ptr()


class Into(nn.Module):
    """The kernels behind linear, cat and argmax, writing into the caller's buffers."""

    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor, buffers: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        product, joined, choice = buffers
        torch.addmm(bias, x, weight.t(), out=product)
        torch.cat([x, product], 1, out=joined)
        torch.argmax(product, 1, out=choice)
        return product, joined, choice


@both_runtimes
def test_a_callers_buffer_is_written_from_end_to_end(scripted: bool, script: Script) -> None:
    """Into buffers of NaN and then, in the second call, into those with the first one's results."""
    module = script(Into()) if scripted else Into()
    nan = float("nan")
    buffers = (torch.full((3, 5), nan), torch.full((3, 12), nan), torch.full((3,), -1))
    places = [buffer.data_ptr() for buffer in buffers]
    for seed in (880, 890):
        x, weight, bias = normal(seed, 3, 7), normal(seed + 1, 5, 7), normal(seed + 2, 5)
        came = module(x, weight, bias, buffers)
        x_e, weight_e, bias_e = (tensor.double().numpy() for tensor in (x, weight, bias))
        product = linear(x_e, weight_e, bias_e)
        joined = concatenation([x_e, product], 1)
        choice = np.array([row.tolist().index(max(row)) for row in product])
        assert_agree(buffers, [product, joined, choice])
        assert [tensor.data_ptr() for tensor in came] == places, "no other memory was taken"


class Given(nn.Module):
    """An actor that gives the logits that it was told to, whatever the state."""

    logits: Tensor

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, h: Tensor) -> Tensor:
        return self.logits[: h.size(0)]


def logits_to_choose_from() -> Tensor:
    """float32[6, 23]: random, all negative, all equal, and ties at the head's first and last."""
    logits = normal(900, 6, sum(HEADS), scale=2)
    logits[1] = -1 - logits[1].abs()
    logits[2] = -3.5
    start = 0
    for size in HEADS:
        head = logits[:, start : start + size]  # a view
        head[3, :], head[3, -2:] = -2, 4  # the last two are largest, and equal
        head[4, :], head[4, 0], head[4, -1] = -9, -1, -1  # the first and the last
        head[5, :], head[5, -1] = -math.inf, -1e30
        start += size
    return logits


@both_runtimes
def test_the_largest_logit_of_each_head_wins_and_of_equal_ones_the_first(
    scripted: bool, script: Script
) -> None:
    logits = logits_to_choose_from()
    module = policy()
    module.actor = Given(logits)  # type: ignore[assignment]
    runs = script(module) if scripted else module
    state = torch.zeros(6, 128)
    with torch.no_grad():
        actions, _, _ = runs.act(observation(910, 6), state, state)
    expected = head_choices(logits.double().numpy())
    assert actions.dtype == torch.int64
    assert actions.tolist() == expected.tolist()
    assert expected[2].tolist() == [0] * 6
    assert expected[3].tolist() == [size - 2 for size in HEADS]
    assert expected[4].tolist() == [0] * 6
    assert expected[5].tolist() == [size - 1 for size in HEADS]


@both_runtimes
def test_classes_quantities_and_extras_are_joined_in_this_order(
    scripted: bool, script: Script
) -> None:
    """With convolutions that pass on what they get, `encode` shows the planes and the extras."""
    module = policy()
    module.conv1 = module.conv2 = nn.Identity()  # type: ignore[assignment]
    runs = script(module) if scripted else module
    for seed in (920, 930):
        obs = observation(seed, 2)
        obs[0, 0], obs[1, 480] = 15, 0  # the last class and the first one
        with torch.no_grad():
            came = runs.encode(obs)
        cells = obs[:, :484].reshape(2, 11, 11, 4).numpy()
        planes = concatenation([one_hot_planes(cells[..., 0], 16), cells[..., 1:] / 255], 3)
        extras = linear(obs[:, 484:].numpy() / 255.0, *(arrays(module.extra).values()))
        assert_agree([came[:, : 19 * 121].view(2, 19, 11, 11)], [planes.transpose(0, 3, 1, 2)])
        assert_agree([came[:, 19 * 121 :]], [extras])


@both_runtimes
def test_the_policy_is_the_composition_of_the_references(scripted: bool, script: Script) -> None:
    module = policy()
    weights = arrays(module)
    runs = script(module) if scripted else module
    h, c = normal(940, 3, 128), normal(941, 3, 128)
    h_e, c_e = h.double().numpy(), c.double().numpy()
    earlier: list[tuple[Tensor, Tensor]] = []
    for step in range(2):
        obs = observation(950 + 2 * step, 3)
        with torch.no_grad(), poisoned(h, c, torch.empty(3, 23), torch.empty(3, 1)):
            actions, _, _ = runs.act(obs, h, c)
            logits, value, h, c = runs(obs, h, c)
        logits_e, value_e, h_e, c_e = whole_forward(weights, obs.numpy(), h_e, c_e)
        assert_agree([logits, value, h, c], [logits_e, value_e, h_e, c_e])
        assert actions.tolist() == head_choices(logits_e).tolist()
        earlier += [(tensor, tensor.clone()) for tensor in (logits, value, h, c, actions)]
    for tensor, kept in earlier:
        assert torch.equal(tensor, kept)

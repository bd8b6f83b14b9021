"""The operator `torchship::lstm_pointwise` against the plain formula, and its model."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from torchship.models import libraries, operators, recurrent
from torchship.models.cells import FusedLSTMCell, LSTMCell, lstm_pointwise
from torchship.models.errors import OperatorsMissingError
from torchship.models.recurrent import Recurrent
from torchship.models.seeding import normal

Pair = tuple[Tensor, Tensor]

DTYPES = [torch.float32, torch.float64]
CAPABILITIES = ["DEFAULT", "AVX2", "AVX512"]

operators.load()


def fused(gates: Tensor, c: Tensor) -> Pair:
    h, c_next = torch.ops.torchship.lstm_pointwise(gates, c)
    return h, c_next


def drawn(seed: int, batch: int, hidden: int, dtype: torch.dtype, scale: float = 1) -> Pair:
    gates = normal(seed, batch, 4 * hidden, scale=scale).to(dtype)
    return gates, normal(seed + 1, batch, hidden, scale=scale).to(dtype)


def assert_near(actual: Pair, expected: Pair) -> None:
    """The stated tolerance: 4 epsilons for h, as many times 1 + |c| for c."""
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        allowed = 4 * torch.finfo(b.dtype).eps * (1 + b.abs())
        assert bool(((a - b).abs() <= allowed).all()), (a - b).abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.01, 1, 5, 300])
def test_it_computes_the_plain_formula(dtype: torch.dtype, scale: float) -> None:
    for batch, hidden in ((1, 1), (1, 40), (2, 8), (3, 17), (5, 128), (64, 100)):
        gates, c = drawn(1000 + hidden, batch, hidden, dtype, scale)
        assert_near(fused(gates, c), lstm_pointwise(gates, c))


@given(st.integers(0, 6), st.integers(0, 70), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_any_size(batch: int, hidden: int, dtype: torch.dtype, seed: int) -> None:
    gates, c = drawn(seed, batch, hidden, dtype)
    assert_near(fused(gates, c), lstm_pointwise(gates, c))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_element_does_not_depend_on_its_place(dtype: torch.dtype) -> None:
    gates, c = drawn(1, 7, 37, dtype)
    whole = fused(gates, c)
    for row in range(7):
        alone = fused(gates[row : row + 1], c[row : row + 1])
        assert all(torch.equal(a, b[row : row + 1]) for a, b in zip(alone, whole, strict=True))
    one = fused(gates.view(7, 4, 37)[:, :, 36], c[:, 36:])
    assert all(torch.equal(a, b[:, 36:]) for a, b in zip(one, whole, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_that_are_not_contiguous(dtype: torch.dtype) -> None:
    gates, c = drawn(1, 6, 20, dtype)
    expected = fused(gates, c)
    wide = torch.full((6, 101), torch.nan, dtype=dtype)
    wide[:, 3:83], wide[:, 81:101] = gates, c
    wide[:, 3:83] = gates
    others: list[Pair] = [
        (gates.t().contiguous().t(), c.t().contiguous().t()),
        (torch.cat([gates, gates], 1)[:, :80], torch.cat([c, c], 1)[:, :20]),
        (wide[:, 3:83], c),
        (gates.repeat_interleave(2, 0)[::2], c.repeat_interleave(2, 0)[1::2]),
    ]
    for pair in others:
        assert not pair[0].is_contiguous()
        actual = fused(*pair)
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
        assert all(item.is_contiguous() for item in actual)
    row = fused(gates[:1].expand(6, 80), c[:1].expand(6, 20))
    assert all(torch.equal(a, b[:1].expand(6, 20)) for a, b in zip(row, expected, strict=True))


def test_arguments_stay_as_they_are() -> None:
    gates, c = drawn(1, 3, 5, torch.float32)
    before = gates.clone(), c.clone()
    fused(gates, c)
    assert torch.equal(gates, before[0])
    assert torch.equal(c, before[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    values = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 89, -89, 800, -800, largest, -largest])
    values = torch.cat([values, torch.tensor([torch.inf, -torch.inf])]).to(dtype)
    gates = torch.cartesian_prod(values, values, values, values).t().reshape(1, -1)
    c = torch.ones(1, gates.shape[1] // 4, dtype=dtype)
    assert_near(fused(gates, c), lstm_pointwise(gates, c))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_reaches_the_outputs(dtype: torch.dtype) -> None:
    for place in range(5):
        gates, c = drawn(1, 1, 20, dtype)
        row = gates[0, 20 * place :] if place < 4 else c[0]
        row[3] = torch.nan
        for actual, expected in zip(fused(gates, c), lstm_pointwise(gates, c), strict=True):
            assert torch.equal(actual.isnan(), expected.isnan())
        assert bool(fused(gates, c)[0][0, 3].isnan())


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_build_of_the_loops(capability: str) -> None:
    """Torch, and we with it, take another one when the environment says so."""
    here = torch.backends.cpu.get_cpu_capability()
    if here in CAPABILITIES and CAPABILITIES.index(capability) > CAPABILITIES.index(here):
        capability = here  # the CPU has no more
    code = """
import torch
from torchship.models import operators
from torchship.models.cells import lstm_pointwise
operators.load()
print(torch.backends.cpu.get_cpu_capability())
for dtype in (torch.float32, torch.float64):
    for scale in (0.1, 1, 5, 300):
        torch.manual_seed(1)
        pair = [(torch.randn(40, size) * scale).to(dtype).requires_grad_() for size in (204, 51)]
        fused, plain = torch.ops.torchship.lstm_pointwise(*pair), lstm_pointwise(*pair)
        grads = [
            torch.autograd.grad(h.sum() + (c * c).sum() / scale, pair) for h, c in (fused, plain)
        ]
        for a, b in zip([*fused, *grads[0]], [*plain, *grads[1]]):
            eps = torch.finfo(dtype).eps
            assert bool(((a - b).abs() <= 8 * eps * (1 + b.abs())).all()), (dtype, scale)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability.lower()},
    )
    assert done.returncode == 0, done.stderr
    if here in CAPABILITIES:
        assert done.stdout == f"{capability}\n"


def test_threads_change_nothing() -> None:
    gates, c = drawn(1, 300, 100, torch.float32)
    one = fused(gates, c)
    torch.set_num_threads(2)
    assert all(torch.equal(a, b) for a, b in zip(fused(gates, c), one, strict=True))


@pytest.mark.parametrize(
    ("gates", "c", "message"),
    [
        (torch.zeros(2, 8), torch.zeros(2, 2, dtype=torch.int64), "c: expected float32 or float64"),
        (torch.zeros(2, 8).half(), torch.zeros(2, 2).half(), "c: expected float32 or float64"),
        (torch.zeros(2, 8).double(), torch.zeros(2, 2), "gates: expected Float as c has it"),
        (torch.zeros(2, 8, device="meta"), torch.zeros(2, 2), "gates: expected to be on cpu"),
        (torch.zeros(8), torch.zeros(2), r"c: expected \[batch, hidden\], got \[2\]"),
        (torch.zeros(1, 2, 8), torch.zeros(1, 2, 2), r"c: expected \[batch, hidden\]"),
        (torch.zeros(2, 9), torch.zeros(2, 2), r"= \[2, 8\], got \[2, 9\]"),
        (torch.zeros(3, 8), torch.zeros(2, 2), r"= \[2, 8\], got \[3, 8\]"),
        (torch.zeros(8), torch.zeros(2, 1), r"= \[2, 4\], got \[8\]"),
    ],
)
def test_what_does_not_fit_is_refused(gates: Tensor, c: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fused(gates, c)


@pytest.mark.parametrize(("batch", "hidden"), [(2, 3), (1, 19), (0, 4)])
def test_gradients_of_any_order(batch: int, hidden: int) -> None:
    gates, c = (item.requires_grad_() for item in drawn(1, batch, hidden, torch.float64))
    assert torch.autograd.gradcheck(fused, (gates, c))
    assert torch.autograd.gradgradcheck(fused, (gates, c))
    for number in range(2):
        assert torch.autograd.gradcheck(lambda g, c, n=number: fused(g, c)[n], (gates, c))
    assert torch.autograd.gradcheck(lambda g: fused(g, c.detach()), (gates,))
    assert torch.autograd.gradcheck(lambda c: fused(gates.detach(), c), (c,))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_those_of_the_plain_formula(dtype: torch.dtype) -> None:
    pair = [item.requires_grad_() for item in drawn(1, 5, 37, dtype, 3)]
    weight = normal(5, 37, 2).to(dtype).t()  # so that gradients come in with other strides
    results = [
        torch.autograd.grad((h * weight[:1]).sum() + (c @ weight.t()).square().sum(), pair)
        for h, c in (fused(*pair), lstm_pointwise(*pair))
    ]
    for actual, expected in zip(*results, strict=True):
        allowed = 16 * torch.finfo(dtype).eps * expected.abs().max()
        assert bool(((actual - expected).abs() <= allowed).all())


def test_no_gradients_are_kept_where_none_are_asked_for() -> None:
    gates, c = drawn(1, 2, 3, torch.float32)
    assert not any(item.requires_grad for item in fused(gates, c))
    gates.requires_grad_()
    assert all(item.requires_grad for item in fused(gates, c))
    with torch.no_grad():
        assert not any(item.requires_grad for item in fused(gates, c))
    with torch.inference_mode():
        assert all(item.is_inference() for item in fused(gates, c))


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning"
)  # torch 2.14's own
def test_torch_finds_nothing_wrong_with_it() -> None:
    for dtype in DTYPES:
        pair = tuple(item.requires_grad_() for item in drawn(1, 3, 5, dtype))
        torch.library.opcheck(torch.ops.torchship.lstm_pointwise.default, pair)


def test_shapes_without_numbers() -> None:
    gates, c = torch.empty(2, 12, device="meta"), torch.empty(2, 3, device="meta")
    for item in fused(gates, c):
        assert (item.device.type, item.shape) == ("meta", c.shape)


# --- the cell and the model ---


@pytest.fixture
def plain_and_fused() -> Iterator[tuple[Recurrent, Recurrent]]:
    yield recurrent.make_lstm(), recurrent.make_lstm_fused()


def test_the_fused_model_has_the_plain_one_s_weights_and_gives_its_outputs(
    plain_and_fused: tuple[Recurrent, Recurrent],
) -> None:
    plain, fused_model = plain_and_fused
    assert isinstance(fused_model.layers[0].cell, FusedLSTMCell)
    weights = plain.state_dict()
    assert fused_model.state_dict().keys() == weights.keys()
    for name, weight in fused_model.state_dict().items():
        assert torch.equal(weight, weights[name])
    for example in recurrent.LSTM.examples()["forward"]:
        step = example[0]
        with torch.no_grad():
            expected, actual = plain(**step), fused_model(**step)
        for a, b in zip([actual[0], *actual[1]], [expected[0], *expected[1]], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=2e-6)


def test_it_learns_what_the_plain_one_learns() -> None:
    networks = [Recurrent(cell, 3, 5).double() for cell in (LSTMCell, FusedLSTMCell)]
    networks[1].load_state_dict(networks[0].state_dict())
    grads = []
    for network in networks:
        output, state = network(normal(1, 2, 4, 3).double())
        (output.square().sum() + state[1].sum()).backward()
        grads.append([parameter.grad for parameter in network.parameters()])
    for plain, fused_grad in zip(*grads, strict=True):
        torch.testing.assert_close(fused_grad, plain, rtol=1e-12, atol=1e-14)


def test_scripted_it_calls_the_operator_and_changes_no_bit(
    script: Callable[[nn.Module], torch.jit.ScriptModule],
    reload: Callable[[torch.jit.ScriptModule], torch.jit.ScriptModule],
) -> None:
    model = recurrent.make_lstm_fused()
    scripted = reload(script(model))
    assert "torchship::lstm_pointwise" in str(scripted.inlined_graph)
    x = normal(1, 2, 3, recurrent.INPUT)
    with torch.no_grad():
        expected, actual = model(x), scripted(x)
    assert torch.equal(actual[0], expected[0])
    assert all(torch.equal(a, b) for a, b in zip(actual[1], expected[1], strict=True))


def test_where_the_library_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = operators.library()
    assert built.name == "libtorchship_ops.so"
    monkeypatch.setattr(libraries, "files", lambda name: [])
    monkeypatch.delenv("TORCHSHIP_OPERATORS", raising=False)
    with pytest.raises(OperatorsMissingError, match="in any folder: build it"):
        operators.library()
    monkeypatch.setenv("TORCHSHIP_OPERATORS", f":{tmp_path}")
    with pytest.raises(OperatorsMissingError, match=f"in {tmp_path}: build it with"):
        operators.library()
    (tmp_path / built.name).symlink_to(built)
    assert operators.library() == tmp_path / built.name

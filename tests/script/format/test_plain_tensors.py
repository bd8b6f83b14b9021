"""Lazy tensors are resolved wherever their memory is read, and no memory is shared."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import zoo
from torchship.script.exporting.export import export
from torchship.script.format.dtypes import DTYPES
from torchship.script.format.golden import Case, Step, to_safetensors
from torchship.script.format.manifest import Tolerance
from torchship.script.format.plain_tensors import contiguous_copy, plain
from torchship.script.runtime.agreement import compare
from torchship.script.runtime.archive import open_archive
from torchship.script.runtime.program import Program
from torchship.serve.protocol.tensors import pack
from torchship.serve.sequences.store import SequenceState, read_state

NEGATIVE = [dtype.torch for dtype in DTYPES if dtype.torch.is_signed]


def negated(dtype: torch.dtype, *shape: int) -> Tensor:
    """-5 everywhere, of which the memory says 5."""
    return torch._neg_view(torch.full(shape, 5).to(dtype))


def unwritten(dtype: torch.dtype, *shape: int) -> Tensor:
    """Zeros without memory."""
    return torch._efficientzerotensor(shape, dtype=dtype)


def learned(dtype: torch.dtype, *shape: int) -> Tensor:
    return nn.Parameter(torch.full(shape, -5).to(dtype), requires_grad=dtype.is_floating_point)


def imaginary(dtype: torch.dtype, *shape: int) -> Tensor:
    x = torch.full(shape, 5.0, dtype=dtype)
    return torch.complex(x, x).conj().imag


MAKERS: list[tuple[Callable[..., Tensor], list[torch.dtype]]] = [
    (negated, NEGATIVE),
    (unwritten, [dtype.torch for dtype in DTYPES]),
    (learned, NEGATIVE),
    (imaginary, [torch.float32, torch.float64]),
]
LAZY = st.sampled_from(MAKERS).flatmap(
    lambda maker: st.builds(
        lambda dtype, shape: maker[0](dtype, *shape),
        st.sampled_from(maker[1]),
        st.lists(st.integers(0, 3), max_size=3),
    )
)


def values(tensor: Tensor) -> list[float]:
    return tensor.detach().clone().double().reshape(-1).tolist()


@given(LAZY)
def test_every_boundary_reads_the_values_and_not_the_memory(tensor: Tensor) -> None:
    expected, shape, dtype = values(tensor), tuple(tensor.shape), tensor.dtype
    entry = Case("a", "forward", (Step({"x": tensor}, {"y": tensor}),))
    golden, _ = read_state(to_safetensors([entry]))
    state, _ = read_state(SequenceState("1", "forward", {"h": tensor}).to_bytes())
    packed = pack(tensor)
    assert (packed.dtype, packed.shape) == (dtype, shape)
    for read in (
        plain(tensor),
        contiguous_copy(tensor),
        golden["0/0/in/x"],
        golden["0/0/out/y"],
        state["h"],
        packed.tensor(),
    ):
        assert (read.dtype, tuple(read.shape)) == (dtype, shape)
        assert values(read) == expected
        assert pack(read).data == packed.data
        assert not read.requires_grad


def test_agreement_compares_values_and_not_memory() -> None:
    negative, positive = torch.tensor([-5.0]), torch.tensor([5.0])
    exact = Tolerance(atol=0, rtol=0)
    for lazy in (negated(torch.float32, 1), imaginary(torch.float32, 1)):
        assert compare(lazy, negative, exact).bit_identical
        assert not compare(lazy, positive, exact).agreed
        assert compare(negative, lazy, exact).bit_identical


class Carrying(nn.Module):
    """Gives what its tensors carry lazily, its own weights, and what it was given."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.tensor([0.5, -0.5]))
        self.register_buffer("table", torch.arange(3.0))
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        lazy = torch.complex(x, x).conj().imag
        y = x * 2
        return lazy, self.log_std, self.table[1:], x, y, y


NAMES = ["lazy", "log_std", "table", "same", "y", "again"]


def carrying(folder: Path) -> Path:
    given: list[dict[str, object]] = [{"x": zoo.noise(n, n, 1)} for n in (1, 3)]
    path = folder / "carrying.pt"
    export(zoo.target(Carrying, given, outputs={"forward": NAMES}), path)
    return path


def test_outputs_are_plain_memory_of_their_own(tmp_path: Path) -> None:
    program = open_archive(carrying(tmp_path)).program()
    x = torch.tensor([[5.0]])
    first = program.call("forward", {"x": x})
    assert first["lazy"].numpy().tolist() == [[-5.0]]
    assert not any(tensor.requires_grad for tensor in first.values())
    expected = {name: tensor.clone() for name, tensor in first.items()}
    for name in NAMES:  # writing to one changes neither another, the input, nor the model
        with torch.inference_mode():
            first[name].fill_(99)
        again = program.call("forward", {"x": x})
        assert x.item() == 5
        for other in NAMES:
            assert torch.equal(again[other], expected[other])
        for other in NAMES[NAMES.index(name) + 1 :]:
            assert torch.equal(first[other], expected[other])


def test_golden_values_are_what_the_tensors_say(tmp_path: Path) -> None:
    archive = open_archive(carrying(tmp_path))
    for case in archive.golden:
        (step,) = case.steps
        assert torch.equal(step.outputs["lazy"], -step.inputs["x"])
        assert step.outputs["log_std"].tolist() == [0.5, -0.5]


class Clamping(nn.Module):
    """Writes into its input, which no example shows: all of theirs are small enough."""

    def forward(self, x: Tensor, many: list[Tensor], h: Tensor) -> tuple[Tensor, Tensor]:
        x.clamp_(-1, 1)
        for one in many:
            one.clamp_(max=1)
        h.clamp_(min=0)
        return x + many[0], h


def small(*sizes: int) -> list[dict[str, object]]:
    return [
        {"x": torch.rand(n, 2), "many": [torch.rand(n, 2)], "h": torch.rand(n, 2)} for n in sizes
    ]


@pytest.mark.parametrize("eager", [False, True])
def test_the_callers_tensors_stay_as_they_were(eager: bool, tmp_path: Path) -> None:
    state = [("h", "h", None)]
    target = zoo.target(
        lambda: Clamping().eval(),
        small(2, 3),
        outputs={"forward": ["y", "h"]},
        state={"forward": state},
    )
    archive = export(target, tmp_path / "a.pt")
    program = Program(archive.require_manifest(), Clamping().eval()) if eager else archive.program()
    given = {name: torch.full((1, 2), -3.0) for name in ("x", "h")}
    given["many.0"] = torch.full((1, 2), 3.0)
    before = {name: tensor.clone() for name, tensor in given.items()}
    answered = program.call("forward", given)
    assert answered["y"].tolist() == [[0.0, 0.0]]
    assert answered["h"].tolist() == [[0.0, 0.0]]
    assert all(torch.equal(given[name], before[name]) for name in given)
    with torch.inference_mode():
        state_before = answered["h"].sub_(2)  # what a caller carries to the next step is its own
    program.call("forward", given | {"h": state_before})
    assert state_before.tolist() == [[-2.0, -2.0]]

"""Every operator that compiles to C, against eager torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import operator_modules
import scripted
from compiled import quick_options
from operator_modules import Case
from torchship.native.compiler import compile_archive
from torchship.native.errors import UnsupportedError
from torchship.native.importing.registry import OPERATORS
from torchship.script.errors import ModelError
from torchship.script.format.manifest import Argument
from torchship.script.format.nodes import TensorNode

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

EPSILON = 2.0**-23
SPECIAL = (
    *(float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38),
    *(1e30, -1e30, 1e-30, 88.0, 89.0, -88.0, -104.0, 1.0, -1.0, 0.5, -2.5),
)
BATCHES = st.sampled_from([0, 1, 2, 3, 5, 33, 50])
"""With 0, 1, odd numbers, and more than are computed at a time."""


def cases(module: type[torch.nn.Module]) -> dict[str, Case]:
    return {name: f.case for name, f in vars(module).items() if hasattr(f, "case")}


NAMES = [(module, name) for module in operator_modules.MODULES for name in cases(module)]


@pytest.fixture(scope="module")
def compiled(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[type[torch.nn.Module], scripted.Compiled]]:
    made = {}
    for module in operator_modules.MODULES:
        signatures = {name: case.signature for name, case in cases(module).items()}
        folder = tmp_path_factory.mktemp(module.__name__)
        torch.manual_seed(5)
        made[module] = scripted.compile_methods(module(), signatures, folder, quick_options())
    yield made


def _numbers(argument: Argument, shape: list[int], seed: int, special: float) -> torch.Tensor:
    node = argument.value
    assert isinstance(node, TensorNode)
    dtype = getattr(torch, node.dtype)
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < 0.5
    if not dtype.is_floating_point:
        low = 0 if dtype == torch.uint8 else -5
        return torch.randint(low, 6, shape, generator=generator).to(dtype)
    values = torch.randn(shape, generator=generator) * 3
    chosen = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < special, chosen, values).to(dtype)


def _drawn(draw: Any, inputs: list[Argument], special: bool) -> list[Any]:
    sizes = {
        name: draw(BATCHES if name == "batch" else st.integers(1, 7), label=name)
        for name in scripted.symbols(inputs)
    }
    share = draw(st.sampled_from([0.0, 0.2, 1.0]), label="special") if special else 0.0
    seed = draw(st.integers(0, 2**20), label="seed")
    values: list[Any] = []
    for number, argument in enumerate(inputs):
        node = argument.value
        if isinstance(node, TensorNode):
            shape = [sizes[n] if isinstance(n, str) else int(n or 0) for n in node.shape]
            values.append(_numbers(argument, shape, seed + number, share))
        elif node.kind == "int":
            values.append(draw(st.integers(0, 9), label=argument.name))
        elif node.kind == "float":
            values.append(draw(st.floats(-4, 4, width=32), label=argument.name))
        else:
            values.append(draw(st.booleans(), label=argument.name))
    return values


def _largest(tensor: torch.Tensor) -> float:
    """Return the largest finite number, 0 if there is none."""
    finite = tensor[tensor.isfinite()].double().abs()
    return float(finite.max()) if len(finite) else 0.0


def _compare(
    case: Case, number: int, got: torch.Tensor, wanted: torch.Tensor, values: list[Any]
) -> None:
    assert got.dtype == wanted.dtype, number
    assert got.shape == wanted.shape, number
    if not wanted.is_floating_point():
        assert torch.equal(got, wanted), number
        return
    given = [value for value in values if isinstance(value, torch.Tensor)]
    largest = max(map(_largest, [wanted, *given]))
    torch.testing.assert_close(
        got.double(),
        wanted.double(),
        rtol=case.ulps * EPSILON,
        atol=case.spread * EPSILON * largest + (1e-44 if case.ulps else 0),
        equal_nan=True,
        msg=lambda text: f"output {number}: {text}",
    )


@pytest.mark.parametrize(
    ("module", "name"), NAMES, ids=[f"{module.__name__}-{name}" for module, name in NAMES]
)
def test_operators_agree_with_torch(
    module: type[torch.nn.Module],
    name: str,
    compiled: Mapping[type[torch.nn.Module], scripted.Compiled],
) -> None:
    case = cases(module)[name]
    inputs = scripted.parse(case.signature)

    @settings(max_examples=15, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        values = _drawn(data.draw, inputs, case.special)
        got, wanted = scripted.call_both(compiled[module], name, values)
        assert len(got) == len(wanted)
        for number, (a, b) in enumerate(zip(got, wanted, strict=True)):
            _compare(case, number, a, b, values)

    run()


# --- every operator ---

NOT_IN_SCRIPTS = {
    # TorchScript writes others in their stead, in all but traced or old archives.
    "aten::bool",
    "aten::concat",
    "aten::concatenate",
    "aten::double",
    "aten::float",
    "aten::int",
    "aten::long",
    "aten::rsub",
    "aten::swapaxes",
    "aten::true_divide",
    "prim::NumToTensor",
    "aten::requires_grad",
    "aten::ScalarImplicit",
    "prim::unchecked_unwrap_optional",
    "aten::numel",
    "aten::is_autocast_cpu_enabled",
    # Another test has it.
    "torchship::lstm_pointwise",
    # It would print while the test runs.
    "prim::Print",
}


def test_every_operator_is_compiled(
    compiled: Mapping[type[torch.nn.Module], scripted.Compiled],
) -> None:
    kinds = set().union(*(one.kinds for one in compiled.values()))
    missing = set(OPERATORS) - kinds - NOT_IN_SCRIPTS
    assert not missing, " ".join(sorted(missing))


# --- what is refused ---

REFUSED = {
    "input_in_place": "writes in place to an input of the method",
    "weight_in_place": "writes in place to a parameter or buffer",
    "branch_in_place": "writes in place to a tensor that is another one in each branch",
    "copy_in_place": "writes in place to a tensor of which the C has a copy",
    "carried_in_place": "writes in place to a tensor of which the C has a copy",
    "appended_in_place": "writes in place to a tensor of which the C has a copy",
    "dict_in_branch": "an item that is set in a loop or branch",
    "reversed_in_branch": "a list that is reversed in a loop or branch",
    "squeezed": "squeeze of a size that may be 1 or not",
    "decimals": "round to decimals",
    "raising_loop": "a loop that raises in its first round",
    "double_remainder": "remainder of float64 has no C yet",
    "wide_shift": "a shift by other than a number from 0 to 63",
    "gathered": "aten::gather has no C yet",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_c_cannot_follow_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    module = operator_modules.Refused()
    signatures = {name: cases(operator_modules.Refused)[name].signature}
    archive, _ = scripted.archive_of(module, signatures, tmp_path)
    with pytest.raises(UnsupportedError, match=rf"operator_modules.py:\d+: .*{REFUSED[name]}"):
        compile_archive(archive, golden=False)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("selected", [5], r"index 5 is out of bounds for dimension 0 with size 3"),
        ("selected", [-4], r"index -1 is out of bounds for dimension 0 with size 3"),
        ("taken", [torch.tensor([1, 3])], r"index 3 is out of bounds for dimension 0 with size 3"),
        (
            "taken",
            [torch.tensor([-4, 0])],
            r"index -4 is out of bounds for dimension 0 with size 3",
        ),
        ("convolved", [torch.ones(1, 1, 2, 5)], r"Kernel size 3 .* input size, which is 2"),
        ("embedded", [torch.tensor([0, -1])], r"index out of range in self"),
    ],
)
def test_wrong_indices_raise(
    name: str,
    values: list[Any],
    message: str,
    checked: scripted.Compiled,
) -> None:
    with pytest.raises(ModelError, match=message):
        scripted.call_compiled(checked, name, [torch.ones(3, 4), *values])


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> scripted.Compiled:
    module = operator_modules.Checked
    signatures = {name: case.signature for name, case in cases(module).items()}
    folder = tmp_path_factory.mktemp("checked")
    return scripted.compile_methods(module(), signatures, folder, quick_options())

"""The values that an archive can carry: tensors of every kind, and other values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import unshippable
import zoo
from torchship.script.errors import ExportError
from torchship.script.exporting.export import export
from torchship.script.exporting.values import describe, outline
from torchship.script.runtime.archive import open_archive

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own notices of unfinished kinds


def fake() -> Tensor:
    with FakeTensorMode():
        return torch.ones(2, 2)


NO_ARCHIVE_HAS: dict[str, tuple[Callable[[], Tensor], str]] = {
    "sparse": (lambda: torch.eye(2).to_sparse(), "is a sparse tensor (sparse_coo): expected a"),
    "csr": (lambda: torch.eye(2).to_sparse_csr(), "is a sparse tensor (sparse_csr): expected a"),
    "meta": (lambda: torch.ones(2, 2, device="meta"), "is on the device 'meta', where tensors"),
    "mkldnn": (lambda: torch.ones(2, 2).to_mkldnn(), "is an MKLDNN tensor: expected a dense one"),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "is a nested tensor: expected a dense one",
    ),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "is a NestedTensor: expected a torch.Tensor itself",
    ),
    "masked": (
        lambda: torch.masked.masked_tensor(torch.ones(2), torch.ones(2, dtype=torch.bool)),
        "is a MaskedTensor: expected a torch.Tensor itself",
    ),
    "fake": (fake, "is a FakeTensor: expected a torch.Tensor itself"),
}

NO_SIGNATURE_HAS: dict[str, Callable[[int], Tensor]] = {
    "float8_e4m3fn": lambda n: torch.ones(n, 3).to(torch.float8_e4m3fn),
    "float8_e5m2": lambda n: torch.ones(n, 3).to(torch.float8_e5m2),
    "float4_e2m1fn_x2": lambda n: torch.zeros(n, 3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    "complex32": lambda n: torch.ones(n, 3, dtype=torch.complex32),
    "complex64": lambda n: torch.ones(n, 3, dtype=torch.complex64),
    "bits8": lambda n: torch.zeros(n, 3, dtype=torch.uint8).view(torch.bits8),
    "uint4": lambda n: torch.zeros(n, 3, dtype=torch.uint8).view(torch.uint4),  # type: ignore
    "qint8": lambda n: torch.quantize_per_tensor(torch.ones(n, 3), 0.1, 0, torch.qint8),
    "quint8": lambda n: torch.quantize_per_channel(
        torch.ones(n, 3), torch.ones(3), torch.zeros(3).long(), 1, torch.quint8
    ),
}


def refusal(factory: Callable[[], object], examples: object, folder: Path) -> str:
    with pytest.raises(ExportError) as caught:
        export(zoo.target(factory, examples), folder / "refused.pt")
    assert list(folder.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", NO_ARCHIVE_HAS)
def test_tensors_without_dense_values_are_named_wherever_they_are(
    kind: str, tmp_path: Path
) -> None:
    make, expected = NO_ARCHIVE_HAS[kind]

    def holding() -> torch.nn.Module:
        return unshippable.Holding(make()).eval()

    message = refusal(holding, zoo.rows, tmp_path)
    assert message.startswith(f"'held' {expected}")
    message = refusal(zoo.linear, [{"x": make()}, {"x": make()}], tmp_path)
    assert f"zoo:linear: 'x' of example 0 of 'forward' {expected}" in message
    message = refusal(zoo.linear, [{"x": [make()]}, {"x": [make()]}], tmp_path)
    assert f"'x' of example 0 of 'forward', at [0], {expected}" in message


@pytest.mark.parametrize("kind", NO_SIGNATURE_HAS)
def test_dtypes_that_no_signature_has(kind: str, tmp_path: Path) -> None:
    make = NO_SIGNATURE_HAS[kind]
    message = refusal(lambda: unshippable.Same().eval(), [{"x": make(2)}, {"x": make(4)}], tmp_path)
    assert f"argument 'x' is {kind}: an archive carries dense tensors of bool, uint8" in message


@pytest.mark.parametrize("kind", NO_SIGNATURE_HAS)
def test_weights_of_any_dtype_ship(kind: str, tmp_path: Path) -> None:
    held = NO_SIGNATURE_HAS[kind](2)

    def holding() -> torch.nn.Module:
        return unshippable.Holding(held).eval()

    export(zoo.target(holding, zoo.rows), tmp_path / "held.pt")
    loaded = open_archive(tmp_path / "held.pt").load()
    assert loaded.held.dtype == held.dtype
    if not held.is_quantized:
        assert torch.equal(loaded.held.view(torch.uint8), held.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_weight_of_eight_bits_that_is_nan(dtype: torch.dtype, tmp_path: Path) -> None:
    held = torch.tensor([1.0, float("nan")]).to(dtype)
    message = refusal(lambda: unshippable.Holding(held).eval(), zoo.rows, tmp_path)
    assert message.startswith("'held' holds 1 NaN")


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (unshippable.ToSparse, "what the module's forward returns is a sparse tensor"),
        (unshippable.ToMeta, "what the module's forward returns is on the device 'meta'"),
        (unshippable.ToNumpy, "returns is of the type ndarray: expected tensors, numbers"),
        (unshippable.Nothing, "the module returns something that is not a tensor: return tensors"),
        (unshippable.Yielding, "returns is of the type generator: expected tensors, numbers"),
        (unshippable.HoldingInAList, "'parts', at [0], is a sparse tensor"),
    ],
)
def test_results_and_attributes(factory: type[zoo.Linear], expected: str, tmp_path: Path) -> None:
    assert expected in refusal(lambda: zoo.seeded(factory()), zoo.rows, tmp_path)


def test_weights_that_have_no_values_yet(tmp_path: Path) -> None:
    examples = [{"input": row["x"]} for row in zoo.rows()]
    message = refusal(unshippable.uninitialised, examples, tmp_path)
    assert "'0.weight' has no size yet, being of a lazy module: call the module once" in message
    message = refusal(lambda: zoo.linear().to("meta"), zoo.rows, tmp_path)
    assert message.startswith("'layer.weight' is on the device 'meta'")


def test_subclasses_without_a_dispatch_of_their_own_are_tensors(tmp_path: Path) -> None:
    def make() -> torch.nn.Module:
        module = zoo.Linear()
        weight = zoo.noise(1, 4, 3).as_subclass(unshippable.Subclass)
        module.layer.weight = torch.nn.Parameter(weight)
        module.layer.bias = unshippable.OwnParameter(torch.ones(4))
        return module.eval()

    examples = [{"x": row["x"].as_subclass(unshippable.Subclass)} for row in zoo.rows()]  # type: ignore[attr-defined]
    export(zoo.target(make, examples), tmp_path / "a.pt")
    program = open_archive(tmp_path / "a.pt").program()
    x = zoo.noise(3, 2, 3)
    with torch.no_grad():
        expected = make()(x).as_subclass(torch.Tensor)
    assert torch.equal(program.call("forward", {"x": x})["output"], expected)


def test_weights_made_in_inference_mode_ship(tmp_path: Path) -> None:
    def make() -> torch.nn.Module:
        with torch.inference_mode():
            return zoo.Linear().eval()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = make()
    export(zoo.target(lambda: module, zoo.rows), tmp_path / "a.pt")


@dataclasses.dataclass
class Point:
    x: int = 0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.ones((2, 3), np.float32), "is of the type ndarray: expected tensors, numbers, strings"),
        (np.float32(1), "is of the type float32: expected tensors"),
        (Point(), "is of the type Point: expected tensors"),
        ({"a": [Point()]}, ", at ['a'][0], is of the type Point: expected tensors"),
        (torch.device("cpu"), "is of the type device: expected tensors"),
        ("\ud800", "is text with half a character (a surrogate): expected Unicode"),
        ({1, 2}, "is of the type set: expected tensors"),
    ],
)
def test_examples_of_other_values(value: object, expected: str, tmp_path: Path) -> None:
    message = refusal(zoo.linear, [{"x": value}, {"x": value}], tmp_path)
    assert message.startswith("zoo:linear: 'x' of example 0 of 'forward'")
    assert expected in message


def test_outlines_and_descriptions() -> None:
    x = torch.ones(2, 3)
    value = (x, [x, None], {"b": x, "a": (3,)}, zoo.Memory(x, x))
    assert (
        outline(value) == "(Tensor, [Tensor, None], {'a': (int,), 'b': Tensor}, (Tensor, Tensor))"
    )
    assert describe(x) == "a tensor float32[2, 3]"
    assert describe([x] * 100) == "list"
    assert describe(Point()) == "Point"

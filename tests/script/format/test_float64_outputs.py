"""The record of float64 outputs: written, read, and refused when damaged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import safetensors.torch
import torch

from torchship.script.errors import ArchiveError
from torchship.script.format.float64_outputs import (
    MAX_BYTES,
    Float64Step,
    from_safetensors,
    to_safetensors,
    within_limit,
)
from torchship.script.format.golden import Case, Step
from torchship.script.format.tree import Flat


def step(*values: float) -> Step:
    y = torch.tensor(values)
    return Step({}, {"y": y, "exact": y.double(), "place": y.argmax(), "half/way": y.half()})


def exact(*values: float) -> Float64Step:
    y = torch.tensor(values, dtype=torch.float64)
    return Float64Step({"y": y, "half/way": y}, {"y": 0.25 * len(values), "half/way": 0.0})


CASES = [
    Case("short", "forward", (step(0.1),)),
    Case("without", "forward", (step(0.2, 0.3),)),
    Case("long", "forward", (step(0.4), step(0.5, 0.6))),
]
OUTPUTS = {0: [exact(0.1)], 2: [exact(0.4), exact(0.5, 0.6)]}


def test_what_was_written_is_read() -> None:
    found = from_safetensors(to_safetensors(OUTPUTS), CASES)
    assert found.keys() == OUTPUTS.keys()
    for number, steps in OUTPUTS.items():
        assert len(found[number]) == len(steps)
        for read, written in zip(found[number], steps, strict=True):
            assert read.outputs.keys() == written.outputs.keys()
            assert all(
                torch.equal(read.outputs[name], tensor) for name, tensor in written.outputs.items()
            )
            assert read.errors == written.errors


def test_views_of_one_tensor_are_written() -> None:
    whole = torch.rand(2, 2, dtype=torch.float64)
    cases = [Case("views", "forward", (Step({}, {"a": whole.float(), "b": whole.T.float()}),))]
    written = Float64Step({"a": whole, "b": whole.T}, {"a": 0.0, "b": 0.0})
    found = from_safetensors(to_safetensors({0: [written]}), cases)
    assert torch.equal(found[0][0].outputs["b"], whole.T)


def drop(tensors: Flat) -> None:
    del tensors["2/1/out/y"]


def drop_error(tensors: Flat) -> None:
    del tensors["2/1/error/y"]


def error_of(value: float) -> Callable[[Flat], None]:
    return lambda tensors: tensors.update({"0/0/error/y": torch.tensor(value).double()})


def add(key: str) -> Callable[[Flat], None]:
    return lambda tensors: tensors.update({key: torch.zeros(1, dtype=torch.float64)})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (drop, "lacks '2/1/out/y'"),
        (drop_error, "lacks '2/1/error/y'"),
        (error_of(-0.5), "'0/0/error/y': expected a finite error of at least 0, got -0.5"),
        (error_of(torch.inf), "'0/0/error/y': expected a finite error of at least 0, got inf"),
        (error_of(torch.nan), "'0/0/error/y' holds NaN"),
        (add("0/0/error/y"), "'0/0/error/y': expected float64[], got float64[1]"),
        (
            lambda tensors: tensors.update({"0/0/error/y": torch.tensor(0.5)}),
            "'0/0/error/y': expected float64[], got float32[]",
        ),
        (add("0/1/error/y"), "has '0/1/error/y', which is no golden output"),
        (add("0/0/error/exact"), "has '0/0/error/exact', which is no golden output"),
        (add("0/1/out/y"), "has '0/1/out/y', which is no golden output of lower precision"),
        (add("0/0/out/exact"), "has '0/0/out/exact', which is no golden output"),
        (add("0/0/out/place"), "has '0/0/out/place', which is no golden output"),
        (add("0/0/in/y"), "has '0/0/in/y', which is no golden output"),
        (add("3/0/out/y"), "has '3/0/out/y', which is no golden output"),
        (add("y"), "has 'y', which is no golden output"),
        (add("1/0/in/y"), "lacks '1/0/out/y'"),
        (
            lambda tensors: tensors.update({"0/0/out/y": torch.zeros(1)}),
            "'0/0/out/y': expected float64[1], got float32[1]",
        ),
        (
            lambda tensors: tensors.update({"0/0/out/y": torch.zeros(2).double()}),
            "'0/0/out/y': expected float64[1], got float64[2]",
        ),
        (
            lambda tensors: tensors["0/0/out/y"].fill_(torch.nan),
            "'0/0/out/y' holds NaN",
        ),
    ],
)
def test_damage_is_refused(change: Callable[[Flat], object], reason: str) -> None:
    tensors = safetensors.torch.load(to_safetensors(OUTPUTS))
    change(tensors)
    with pytest.raises(ArchiveError) as caught:
        from_safetensors(safetensors.torch.save(tensors), CASES)
    assert str(caught.value).startswith("the record of float64 outputs")
    assert reason in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{}", to_safetensors(OUTPUTS)[:-1]])
def test_bytes_that_are_no_safetensors_are_refused(data: bytes) -> None:
    with pytest.raises(ArchiveError, match="the record of float64 outputs is not safetensors"):
        from_safetensors(data, CASES)


def test_the_smallest_cases_are_kept() -> None:
    def of(size: int) -> list[Flat]:
        return [{"y": torch.zeros(size // 8, dtype=torch.float64)}]

    half = MAX_BYTES // 2
    assert list(within_limit({0: of(half + 8), 1: of(half), 2: of(half), 3: of(MAX_BYTES)})) == [
        *(1, 2),
    ]
    assert list(within_limit({0: of(MAX_BYTES)})) == [0]
    assert within_limit({0: of(MAX_BYTES + 8)}) == {}

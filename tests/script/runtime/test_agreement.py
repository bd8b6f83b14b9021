"""The rule of agreement, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchship.script.format.golden import Case, Step
from torchship.script.format.manifest import Argument, Manifest, Method, Source, Tolerance
from torchship.script.format.nodes import TensorNode
from torchship.script.runtime.agreement import (
    check_case,
    check_outputs,
    compare,
    ulp_distance,
    worse,
)

EXACT = Tolerance(atol=0, rtol=0)
LOOSE = Tolerance(atol=1e-3, rtol=1e-2)

floats32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def tensor(*values: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


@given(st.lists(floats32, min_size=1, max_size=8))
def test_equal_tensors_agree_and_are_identical(values: list[float]) -> None:
    found = compare(tensor(*values), tensor(*values), EXACT)
    assert found.agreed
    assert found.bit_identical
    assert (found.max_abs, found.max_rel, found.max_ulp) == (0.0, 0.0, 0)


@given(floats32, floats32, st.floats(0, 1), st.floats(0, 1))
def test_the_rule_is_atol_plus_rtol_times_golden(
    a: float, b: float, atol: float, rtol: float
) -> None:
    found = compare(tensor(a), tensor(b), Tolerance(atol=atol, rtol=rtol))
    assert found.agreed == (abs(a - b) <= atol + rtol * abs(b))
    assert found.max_abs == abs(a - b)


def test_the_relative_part_is_of_the_golden_value() -> None:
    tolerance = Tolerance(atol=0, rtol=0.5)
    assert not compare(tensor(2.0), tensor(1.0), tolerance).agreed
    assert compare(tensor(1.0), tensor(2.0), tolerance).agreed


@given(st.floats(width=32, allow_nan=False), st.integers(0, 40))
def test_ulp_counts_the_numbers_between(start: float, steps: int) -> None:
    value = np.float32(start)
    end = value
    for _ in range(steps):
        with np.errstate(over="ignore"):  # the one after the largest is infinite
            end = np.nextafter(end, np.float32(math.inf))
    taken = steps if math.isfinite(float(end)) else None
    distance = int(ulp_distance(tensor(float(value)), tensor(float(end))))
    if taken is not None:
        assert distance == taken
    assert distance == int(ulp_distance(tensor(float(end)), tensor(float(value))))


@pytest.mark.parametrize(
    ("dtype", "one_and_a_bit"),
    [
        (torch.float16, 1 + 2**-10),
        (torch.bfloat16, 1 + 2**-7),
        (torch.float32, 1 + 2**-23),
        (torch.float64, 1 + 2**-52),
    ],
)
def test_one_ulp_in_every_float_dtype(dtype: torch.dtype, one_and_a_bit: float) -> None:
    assert int(ulp_distance(tensor(one_and_a_bit, dtype=dtype), tensor(1.0, dtype=dtype))) == 1
    assert int(ulp_distance(tensor(0.0, dtype=dtype), tensor(-0.0, dtype=dtype))) == 0


def test_ulp_saturates_instead_of_wrapping_around() -> None:
    largest = torch.finfo(torch.float64).max
    far = ulp_distance(tensor(largest, dtype=torch.float64), tensor(-largest, dtype=torch.float64))
    assert int(far) == 2**63 - 1


def test_zeros_of_other_sign_agree_but_are_not_identical() -> None:
    found = compare(tensor(-0.0), tensor(0.0), EXACT)
    assert found.agreed
    assert not found.bit_identical


@pytest.mark.parametrize("golden", [1.0, math.nan])
def test_nan_is_a_mismatch_even_where_golden_has_it(golden: float) -> None:
    found = compare(tensor(1.0, math.nan), tensor(1.0, golden), LOOSE)
    assert not found.agreed
    assert found.reason == "1 of 2 values are NaN"


@pytest.mark.parametrize(
    ("a", "b", "agreed"),
    [
        (math.inf, math.inf, True),
        (-math.inf, math.inf, False),
        (1.0, math.inf, False),
        (math.inf, 1.0, False),
    ],
)
def test_infinities_agree_only_with_themselves(a: float, b: float, agreed: bool) -> None:
    assert compare(tensor(a), tensor(b), LOOSE).agreed is agreed
    assert compare(tensor(a), tensor(b), EXACT).agreed is agreed


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (torch.zeros(2, dtype=torch.float64), "expected float32[2], got float64[2]"),
        (torch.zeros(3), "expected float32[2], got float32[3]"),
        (torch.zeros(2, 1), "expected float32[2], got float32[2, 1]"),
        (torch.zeros(2, dtype=torch.int32), "expected float32[2], got int32[2]"),
    ],
)
def test_another_dtype_or_shape_is_a_mismatch(actual: torch.Tensor, expected: str) -> None:
    found = compare(actual, torch.zeros(2), LOOSE)
    assert not found.agreed
    assert found.reason == expected
    assert found.max_abs is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.uint64, torch.int8])
def test_integers_agree_only_when_equal_if_the_tolerance_is_zero(dtype: torch.dtype) -> None:
    golden = torch.tensor([1, 100, 7], dtype=dtype)
    assert compare(golden.clone(), golden, EXACT).agreed
    found = compare(torch.tensor([1, 101, 7], dtype=dtype), golden, EXACT)
    assert not found.agreed
    assert found.max_abs == 1.0
    assert found.reason.endswith("the first at flat index 1: expected 100, got 101")


def test_integers_have_tolerances_too() -> None:
    golden = torch.tensor([100, -3])
    near = Tolerance(atol=1, rtol=0.01)
    found = compare(torch.tensor([102, -2]), golden, near)
    assert found.agreed
    assert (found.max_abs, found.max_ulp, found.bit_identical) == (2.0, 2, False)
    assert not compare(torch.tensor([103, -3]), golden, near).agreed


def test_large_integers_are_not_rounded() -> None:
    golden = torch.tensor([2**62 + 1])
    found = compare(torch.tensor([2**62]), golden, EXACT)
    assert not found.agreed
    assert found.max_ulp == 1


def test_booleans_and_empty_tensors() -> None:
    yes = torch.tensor([True])
    assert compare(yes, yes.clone(), EXACT).agreed
    assert not compare(~yes, yes, EXACT).agreed
    assert compare(torch.zeros(0, 3), torch.zeros(0, 3), EXACT).agreed
    assert not compare(torch.zeros(0, 3), torch.zeros(0, 4), EXACT).agreed


def manifest() -> Manifest:
    node = TensorNode(name="y", dtype="float32", shape=("batch",))
    argument = Argument(name="x", required=True, value=node.model_copy(update={"name": "x"}))
    method = Method(inputs=(argument,), outputs=node, tolerances={"y": Tolerance(atol=0.5, rtol=0)})
    return Manifest(
        name="m", version="1", source=Source(factory="a:b"), torch="2", mode="script",
        parameters=0, methods={"forward": method}, golden=(),
    )  # fmt: skip


CASE = Case("c", "forward", (Step({"x": tensor(1.0)}, {"y": tensor(2.0)}),))


def test_the_manifests_tolerance_is_used() -> None:
    assert check_outputs(manifest(), 0, CASE, [{"y": tensor(2.5)}])[0].agreed
    assert not check_outputs(manifest(), 0, CASE, [{"y": tensor(2.6)}])[0].agreed


def test_a_missing_output_is_a_mismatch() -> None:
    (found,) = check_outputs(manifest(), 0, CASE, [{}])
    assert (found.agreed, found.reason) == (False, "the output is missing")
    (found,) = check_outputs(manifest(), 0, CASE, [])
    assert not found.agreed


def test_an_output_too_many_is_a_mismatch() -> None:
    _, extra = check_outputs(manifest(), 0, CASE, [{"y": tensor(2.0), "z": tensor(1.0)}])
    assert (extra.output, extra.agreed) == ("z", False)


def test_a_case_is_repeated_and_the_worst_call_counts() -> None:
    calls = []

    def call(method: str, inputs: object) -> dict[str, torch.Tensor]:
        calls.append(method)
        return {"y": tensor(2.0 if len(calls) != 2 else 9.0)}

    (found,) = check_case(manifest(), 0, CASE, call)
    assert len(calls) == 3
    assert not found.agreed
    assert found.max_abs == 7.0


def test_a_mismatch_is_worse_than_any_difference_within_tolerance() -> None:
    (small,) = check_outputs(manifest(), 0, CASE, [{"y": tensor(2.4)}])
    (missing,) = check_outputs(manifest(), 0, CASE, [{}])
    (same,) = check_outputs(manifest(), 0, CASE, [{"y": tensor(2.0)}])
    assert worse(small, missing) is worse(missing, small) is missing
    assert worse(same, small) is worse(small, same) is small

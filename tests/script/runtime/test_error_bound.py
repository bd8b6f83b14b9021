"""The errors of runtimes without LibTorch: at most twice LibTorch's own, and 2 ULP."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchship.script.format.float64_outputs import Float64Step
from torchship.script.format.golden import Case, Step
from torchship.script.format.manifest import Argument, Manifest, Method, Source, Tolerance
from torchship.script.format.nodes import TensorNode, TupleNode
from torchship.script.format.tree import Flat
from torchship.script.runtime import agreement
from torchship.script.runtime.error_bound import beyond_bound, check_case, largest_error, ulp

EPS = torch.finfo(torch.float32).eps
FLOATS = [torch.float16, torch.bfloat16, torch.float32]


def f32(*values: float) -> torch.Tensor:
    return torch.tensor(values)


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_error_may_be_twice_libtorchs_largest_plus_two_ulp() -> None:
    golden = f32(1.0, 4.0)
    exact = f64(1.0, 4.0 + 8 * EPS)
    own = 8 * EPS

    def beyond(*values: float) -> str:
        return beyond_bound(f32(*values), golden, exact, own)

    most = 18  # of the first element: 2 * 8 EPS, and 2 ULP of 1.0, each of EPS
    assert beyond(1.0 + most * EPS, 4.0) == ""
    assert beyond(1.0 - most * EPS, 4.0) == ""
    assert "1 of 2 values" in beyond(1.0 + (most + 1) * EPS, 4.0)
    assert "1 of 2 values" in beyond(1.0 - (most + 1) * EPS, 4.0)
    # Of the second: 2 * 8 EPS, and 2 ULP of 4.0, each of 4 EPS, from what is exact.
    assert beyond(1.0, 4.0 + (8 + 24) * EPS) == ""
    assert beyond(1.0, 4.0 + (8 + 28) * EPS) != ""
    assert beyond(1.0, 4.0 + (8 - 24) * EPS) == ""
    assert beyond(1.0, 4.0 + (8 - 28) * EPS) != ""


def test_the_stored_error_counts_not_that_of_the_golden_run() -> None:
    golden = f32(1.0)
    near = f32(1.0 + 50 * EPS)
    assert beyond_bound(near, golden, golden.double(), 24 * EPS) == ""
    assert beyond_bound(near, golden, golden.double(), 23 * EPS) != ""


def test_the_reason_names_both_errors_and_the_worst_element() -> None:
    reason = beyond_bound(f32(1.0, 1.5, 2.5), f32(1.0, 1.25, 2.0), f64(1.0, 1.25, 1.875), 0.125)
    assert reason == (
        "1 of 3 values: error to float64 0.62, LibTorch's own 0.12, allowed 0.25 + 2 ULP "
        "(4.8e-07); the worst at flat index 2: expected 2.0, got 2.5, in float64 1.875"
    )


def test_exactly_rounded_outputs_leave_two_ulp() -> None:
    golden = f32(1.0)
    assert beyond_bound(f32(1.0 + 2 * EPS), golden, golden.double(), 0.0) == ""
    assert beyond_bound(f32(1.0 + 3 * EPS), golden, golden.double(), 0.0) != ""


def test_infinities_do_not_count() -> None:
    golden = f32(math.inf, 1.0, -math.inf)
    exact = f64(1e39, 1.0, -math.inf)
    assert beyond_bound(golden.clone(), golden, exact, 0.0) == ""
    assert beyond_bound(f32(math.inf, 1.1, -math.inf), golden, exact, 0.0) != ""
    assert beyond_bound(f32(1.0, 2.1), f32(1.0, 2.0), f64(math.inf, 2.0), 0.0) != ""
    assert beyond_bound(f32(math.inf), f32(math.inf), f64(math.inf), 0.0) == ""
    assert beyond_bound(f32(), f32(), f64(), 0.0) == ""


def test_the_largest_error_of_an_output() -> None:
    golden = f32(1.0, 2.0, math.inf, 3.0)
    exact = f64(1.0, 2.0, math.inf, -math.inf)
    assert largest_error(f32(1.125, 1.75, 5.0, 5.0), golden, exact) == 0.25
    assert largest_error(golden, golden, exact) == 0.0
    assert largest_error(f32(), f32(), f64()) == 0.0


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_ulp_is_the_distance_to_the_next_number(value: float) -> None:
    magnitude = np.abs(np.float32(value))
    if magnitude < np.finfo(np.float32).max:
        expected = float(np.nextafter(magnitude, np.float32(np.inf))) - float(magnitude)
        assert float(ulp(f32(value))) == expected


@pytest.mark.parametrize("dtype", FLOATS)
def test_ulp_of_each_dtype(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    values = torch.tensor([1.0, -1.75, 2.0, 0.0, limits.smallest_normal, limits.max], dtype=dtype)
    smallest = limits.smallest_normal * limits.eps
    step = limits.max * limits.eps / (2 - limits.eps)
    expected = [limits.eps, limits.eps, 2 * limits.eps, smallest, smallest, step]
    assert ulp(values).tolist() == expected


MANIFEST = Manifest(
    name="a",
    version="1",
    source=Source(factory="zoo:linear", kwargs={}, git_commit=None),
    torch=torch.__version__,
    mode="script",
    parameters=0,
    methods={
        "forward": Method(
            inputs=(
                Argument(
                    name="x",
                    required=True,
                    value=TensorNode(name="x", dtype="float32", shape=(None,)),
                ),
            ),
            outputs=TupleNode(
                items=(
                    TensorNode(name="y", dtype="float32", shape=(None,)),
                    TensorNode(name="action", dtype="int64", shape=(None,)),
                    TensorNode(name="exact", dtype="float64", shape=(None,)),
                )
            ),
            tolerances={
                "y": Tolerance(atol=1e-3, rtol=0.0),
                "action": Tolerance(atol=1.0, rtol=0.0),
                "exact": Tolerance(atol=1e-3, rtol=0.0),
            },
        )
    },
    golden=(),
)


def outputs(y: float = 1.0, action: int = 3, exact: float = 1.0) -> Flat:
    return {"y": f32(y), "action": torch.tensor([action]), "exact": f64(exact)}


CASE = Case("example", "forward", (Step({"x": f32(1.0)}, outputs()), Step({}, outputs())))
IN_FLOAT64 = {
    0: [Float64Step({"y": f64(1.0 + 1e-5)}, {"y": 1e-5}), Float64Step({"y": f64(1.0)}, {"y": 0.0})]
}


class Runtime:
    """Gives the golden outputs but for one call."""

    def __init__(self, changed: Flat, at: int) -> None:
        self.changed = changed
        self.at = at
        self.calls = 0

    def call(self, method: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        self.calls += 1
        return self.changed if self.calls - 1 == self.at else outputs()


@pytest.mark.parametrize("at", [0, 1, 5])
@pytest.mark.parametrize(
    ("changed", "output", "reason"),
    [
        (outputs(y=1.0 + 1e-4), "y", "error to float64 "),
        (outputs(y=1.1), "y", "(atol 0.001, rtol 0)"),
        (outputs(action=4), "action", "integers differ by up to 1: expected equal ones"),
        (outputs(action=5), "action", "1 of 1 values differ"),
    ],
)
def test_every_run_of_every_step_is_held_to_both_rules(
    changed: Flat, output: str, reason: str, at: int
) -> None:
    found = check_case(MANIFEST, 0, CASE, Runtime(changed, at).call, IN_FLOAT64)
    (wrong,) = [difference for difference in found if not difference.agreed]
    assert (wrong.step, wrong.output) == (at % 2, output)
    assert reason in wrong.reason
    assert len(found) == 6


@pytest.mark.parametrize(
    "changed",
    [outputs(), outputs(y=1.0 + 2.9e-5), outputs(y=1.0 - 0.9e-5), outputs(exact=1.0001)],
)
def test_what_is_within_both_rules_agrees(changed: Flat) -> None:
    found = check_case(MANIFEST, 0, CASE, Runtime(changed, 0).call, IN_FLOAT64)
    assert [difference.reason for difference in found] == [""] * 6
    assert all(difference.agreed for difference in found)


def test_the_errors_of_one_step_do_not_excuse_another() -> None:
    found = check_case(MANIFEST, 0, CASE, Runtime(outputs(y=1.0 + 1e-6), 1).call, IN_FLOAT64)
    (wrong,) = [difference for difference in found if not difference.agreed]
    assert (wrong.step, wrong.output) == (1, "y")


def test_without_float64_outputs_the_tolerance_alone_counts() -> None:
    near = outputs(y=1.0 + 1e-4)
    assert all(d.agreed for d in check_case(MANIFEST, 1, CASE, Runtime(near, 0).call, IN_FLOAT64))
    chosen = check_case(MANIFEST, 1, CASE, Runtime(outputs(action=4), 0).call, {})
    assert [d.output for d in chosen if not d.agreed] == ["action"]


def test_libtorchs_runtimes_are_not_held_to_the_second_rule() -> None:
    found = agreement.check_case(MANIFEST, 0, CASE, Runtime(outputs(y=1.0 + 1e-4), 0).call)
    assert all(difference.agreed for difference in found)

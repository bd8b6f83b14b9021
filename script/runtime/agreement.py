"""Compares a runtime's outputs with the golden ones (docs/archive.md, "Agreement")."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from torchship.script.format.dtypes import name_of
from torchship.script.format.golden import Call, Case, run_case
from torchship.script.format.manifest import Manifest, Tolerance
from torchship.script.format.plain_tensors import plain
from torchship.script.format.tree import Flat, matches
from torchship.script.runtime.floating_point import default_mode

# The profiling executor re-specialises a graph on its second call, so one call is not enough.
REPEATS = 3

INTEGERS = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}


@dataclass(frozen=True)
class Difference:
    """How one output of one step of a golden case differs from the golden value.

    `max_abs`, `max_rel` and `max_ulp` are None if the tensors cannot be compared (different dtype
    or shape, missing output); `reason` is empty if they agree.
    """

    case: int
    case_name: str
    method: str
    step: int
    output: str
    agreed: bool
    max_abs: float | None
    max_rel: float | None
    max_ulp: int | None
    bit_identical: bool
    reason: str

    def to_json(self) -> dict[str, object]:
        """Return the fields as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """The difference between two tensors."""

    agreed: bool
    reason: str
    max_abs: float | None = None
    max_rel: float | None = None
    max_ulp: int | None = None
    bit_identical: bool = False


def compare(actual: torch.Tensor, golden: torch.Tensor, tolerance: Tolerance) -> Comparison:
    """Compare an output with its golden value.

    They agree if dtype and shape are equal, nothing is NaN, and every element satisfies
    `abs(a - b) <= atol + rtol * abs(b)` in double precision.
    """
    if actual.dtype != golden.dtype or actual.shape != golden.shape:
        return Comparison(False, f"expected {_kind(golden)}, got {_kind(actual)}")
    actual, golden = plain(actual).cpu().contiguous(), plain(golden).contiguous()
    identical = _bits(actual).equal(_bits(golden))
    if actual.numel() == 0:
        return Comparison(True, "", 0.0, 0.0, 0, identical)
    if not golden.is_floating_point():
        return _compare_integers(actual, golden, tolerance, identical)
    a, b = actual.double(), golden.double()
    if bool(torch.isnan(a).any()):
        return Comparison(False, f"{int(torch.isnan(a).sum())} of {a.numel()} values are NaN")
    distance = torch.where(a == b, 0.0, (a - b).abs())
    smallest = torch.finfo(golden.dtype).smallest_normal
    # Equal infinities have distance 0; inf - inf and 0 * inf would be NaN.
    within = (distance <= tolerance.atol + tolerance.rtol * b.abs()) & torch.isfinite(distance)
    within |= distance == 0
    relative = torch.where(distance == 0, 0.0, distance / b.abs().clamp(min=smallest))
    max_abs, max_rel = float(distance.max()), float(relative.nan_to_num(torch.inf).max())
    ulp = int(ulp_distance(actual, golden).max())
    if bool(within.all()):
        return Comparison(True, "", max_abs, max_rel, ulp, identical)
    wrong = ~within
    place = int(torch.nonzero(wrong.flatten())[0])
    reason = (
        f"{int(wrong.sum())} of {a.numel()} values differ by up to {max_abs:.6g} "
        f"(atol {tolerance.atol:g}, rtol {tolerance.rtol:g}); the first at flat index {place}: "
        f"expected {float(b.flatten()[place])!r}, got {float(a.flatten()[place])!r}"
    )
    return Comparison(False, reason, max_abs, max_rel, ulp, identical)


def _compare_integers(
    actual: torch.Tensor, golden: torch.Tensor, tolerance: Tolerance, identical: bool
) -> Comparison:
    """Compare integers or booleans by the same rule, without rounding them to floats."""
    if identical:
        return Comparison(True, "", 0.0, 0.0, 0, True)
    # Python's integers, because torch has no arithmetic on uint64.
    pairs = list(zip(actual.flatten().tolist(), golden.flatten().tolist(), strict=True))
    distances = [abs(int(a) - int(b)) for a, b in pairs]
    relative = max(d / max(abs(int(b)), 1) for d, (_, b) in zip(distances, pairs, strict=True))
    largest = max(distances)
    wrong = [
        place
        for place, distance in enumerate(distances)
        if distance > tolerance.atol + tolerance.rtol * abs(int(pairs[place][1]))
    ]
    if not wrong:
        return Comparison(True, "", float(largest), relative, largest, False)
    reason = (
        f"{len(wrong)} of {len(pairs)} values differ; the first at flat index {wrong[0]}: "
        f"expected {pairs[wrong[0]][1]}, got {pairs[wrong[0]][0]}"
    )
    return Comparison(False, reason, float(largest), relative, largest, False)


def ulp_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return, per element, the distance of two float tensors in representable numbers (ULP).

    Neighbouring floats are neighbouring integers if the bits of negative numbers are counted
    downwards; +0 and -0 are the same number. The distance saturates at the largest int64.
    """
    x, y = _ordered(a), _ordered(b)
    distance = x - y
    # float64 of opposite signs can be further apart than int64 holds: it wraps around.
    wrapped = ((x ^ y) & (x ^ distance)) < 0
    return torch.where(wrapped, torch.iinfo(torch.int64).max, distance.abs())


def _ordered(tensor: torch.Tensor) -> torch.Tensor:
    bits = _bits(tensor)
    integers = bits.long()
    return torch.where(integers < 0, torch.iinfo(bits.dtype).min - integers, integers)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return plain(tensor).contiguous().view(INTEGERS[tensor.element_size() * 8])


def _kind(tensor: torch.Tensor) -> str:
    return f"{name_of(tensor.dtype)}{list(tensor.shape)}"


@default_mode()  # in other modes, subnormal numbers may compare as zeros
def check_outputs(
    manifest: Manifest, number: int, case: Case, results: Sequence[Flat]
) -> list[Difference]:
    """Compare every output of every step of a case; a missing or extra output is a mismatch."""
    tolerances = manifest.methods[case.method].tolerances
    found = []
    for index, step in enumerate(case.steps):
        actual = results[index] if index < len(results) else {}
        for name in {**step.outputs, **actual}:
            if name not in actual:
                result = Comparison(False, "the output is missing")
            elif name not in step.outputs:
                result = Comparison(False, "the output is not in the golden case")
            else:
                tolerance = _tolerance(tolerances, name)
                result = compare(actual[name], step.outputs[name], tolerance)
            found.append(
                Difference(
                    case=number,
                    case_name=case.name,
                    method=case.method,
                    step=index,
                    output=name,
                    agreed=result.agreed,
                    max_abs=result.max_abs,
                    max_rel=result.max_rel,
                    max_ulp=result.max_ulp,
                    bit_identical=result.bit_identical,
                    reason=result.reason,
                )
            )
    return found


def _tolerance(tolerances: dict[str, Tolerance], name: str) -> Tolerance:
    for pattern, tolerance in tolerances.items():
        if matches(pattern, name):
            return tolerance
    return Tolerance(atol=0.0, rtol=0.0)


def worse(a: Difference, b: Difference) -> Difference:
    """Return the larger difference."""
    return max(a, b, key=_severity)


def _severity(difference: Difference) -> tuple[bool, bool, float, bool]:
    missing = difference.max_abs is None
    return (not difference.agreed, missing, difference.max_abs or 0, not difference.bit_identical)


Check = Callable[[Manifest, int, Case, Sequence[Flat]], list[Difference]]


def check_case(
    manifest: Manifest, number: int, case: Case, call: Call, check: Check = check_outputs
) -> list[Difference]:
    """Run a golden case several times through `call` and return the largest differences."""
    method = manifest.methods[case.method]
    worst: dict[tuple[int, str], Difference] = {}
    for _ in range(REPEATS):
        for difference in check(manifest, number, case, run_case(call, method, case)):
            key = (difference.step, difference.output)
            worst[key] = worse(worst[key], difference) if key in worst else difference
    return list(worst.values())

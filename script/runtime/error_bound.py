"""The second rule for runtimes without LibTorch: how large their own errors may be.

Such a runtime sums in another order, so its outputs differ from the golden ones by about as much
as these differ from the exact result. A tolerance alone would let it be less accurate than
LibTorch; its errors are therefore compared with LibTorch's (docs/archive.md, "Agreement of
runtimes without LibTorch").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from torchship.script.format.float64_outputs import Float64Outputs, of_lower_precision
from torchship.script.format.golden import Call, Case
from torchship.script.format.manifest import Manifest
from torchship.script.format.plain_tensors import plain
from torchship.script.format.tree import Flat
from torchship.script.runtime import agreement
from torchship.script.runtime.agreement import Difference
from torchship.script.runtime.floating_point import default_mode

FACTOR = 2  # times LibTorch's own largest error
ULPS = 2  # of each golden element, besides


def check_case(
    manifest: Manifest, number: int, case: Case, call: Call, float64_outputs: Float64Outputs
) -> list[Difference]:
    """Run a golden case several times through `call` and return the largest differences.

    An output agrees if it is within its tolerance (`agreement.check_case`), and either its errors
    are within the bound or the case has no float64 outputs. Integers and booleans must be equal.

    Args:
        manifest: the archive's.
        number: of the case.
        case: the golden case.
        call: the runtime's.
        float64_outputs: the archive's, which may lack the case.
    """

    def check(
        manifest: Manifest, number: int, case: Case, results: Sequence[Flat]
    ) -> list[Difference]:
        return check_outputs(manifest, number, case, results, float64_outputs)

    return agreement.check_case(manifest, number, case, call, check)


@default_mode()  # in other modes, subnormal numbers may compare as zeros
def check_outputs(
    manifest: Manifest,
    number: int,
    case: Case,
    results: Sequence[Flat],
    float64_outputs: Float64Outputs,
) -> list[Difference]:
    """Compare every output of every step of a case by both rules."""
    differences = []
    for difference in agreement.check_outputs(manifest, number, case, results):
        if difference.agreed:
            actual = results[difference.step][difference.output]
            step = case.steps[difference.step]
            if not actual.is_floating_point():
                reason = "" if difference.bit_identical else _choice(difference)
            elif number in float64_outputs and difference.output in of_lower_precision(step):
                in_float64 = float64_outputs[number][difference.step]
                reason = beyond_bound(
                    actual,
                    step.outputs[difference.output],
                    in_float64.outputs[difference.output],
                    in_float64.errors[difference.output],
                )
            else:
                reason = ""
            if reason:
                difference = replace(difference, agreed=False, reason=reason)
        differences.append(difference)
    return differences


def _choice(difference: Difference) -> str:
    return (
        f"integers differ by up to {difference.max_abs:g}: expected equal ones; only where the two "
        "best scores are closer than their errors may a choice between them differ, and the "
        "scores are not known here"
    )


def beyond_bound(
    actual: torch.Tensor, golden: torch.Tensor, exact: torch.Tensor, own: float
) -> str:
    """Return which errors are beyond the bound, or an empty string if none is.

    The error of an element is its distance from the float64 output. It may be at most twice
    LibTorch's own largest error, plus 2 ULP of the golden element. Elements that are infinite in
    the golden or the float64 output do not count.

    Args:
        actual: a runtime's output, float16, bfloat16 or float32.
        golden: LibTorch's, of the same dtype and shape.
        exact: float64 of the same shape.
        own: LibTorch's own largest error.
    """
    reference = plain(golden).double()
    counts, error = _errors(actual, golden, exact)
    if not bool(counts.any()):
        return ""
    margin = ULPS * ulp(golden)
    excess = (error - margin).where(counts, -torch.inf) - FACTOR * own
    wrong = int((excess > 0).sum())
    if not wrong:
        return ""
    place = int(excess.flatten().argmax())
    found = float(error.flatten()[place])
    return (
        f"{wrong} of {golden.numel()} values: error to float64 {found:.2g}, LibTorch's own "
        f"{own:.2g}, allowed {FACTOR * own:.2g} + {ULPS} ULP ({float(margin.flatten()[place]):.2g})"
        f"; the worst at flat index {place}: expected {float(reference.flatten()[place])!r}, got "
        f"{float(actual.flatten()[place])!r}, in float64 {float(exact.flatten()[place])!r}"
    )


def largest_error(actual: torch.Tensor, golden: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the largest error of an output; 0 if no element counts, as in `beyond_bound`."""
    _, error = _errors(actual, golden, exact)
    return float(error.max()) if error.numel() else 0.0


def allowed_share(
    actual: torch.Tensor, golden: torch.Tensor, exact: torch.Tensor, own: float
) -> float:
    """Return the largest part of its allowed error that an element uses; above 1 is refused.

    Args:
        actual: a runtime's output, float16, bfloat16 or float32.
        golden: LibTorch's, of the same dtype and shape.
        exact: float64 of the same shape.
        own: LibTorch's own largest error.
    """
    _, error = _errors(actual, golden, exact)
    shares = error / (FACTOR * own + ULPS * ulp(golden))
    return float(shares.max()) if shares.numel() else 0.0


def _errors(
    actual: torch.Tensor, golden: torch.Tensor, exact: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which elements count, and the error of each, 0 if it does not count."""
    counts = torch.isfinite(plain(golden)) & torch.isfinite(exact)
    return counts, torch.where(counts, (plain(actual).cpu().double() - exact).abs(), 0.0)


def ulp(tensor: torch.Tensor) -> torch.Tensor:
    """Return, as float64, how far each element's magnitude is from the next larger number.

    That is the next number of the tensor's own dtype, to the largest number the distance before it.
    """
    limits = torch.finfo(tensor.dtype)
    magnitude = plain(tensor).double().abs().clamp(min=limits.smallest_normal)
    _, exponent = torch.frexp(magnitude)
    return torch.ldexp(torch.full_like(magnitude, limits.eps), exponent - 1)

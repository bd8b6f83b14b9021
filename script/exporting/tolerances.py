"""The tolerances of an archive: how far a correct runtime may be from the golden outputs.

They start as those of `torch.testing.assert_close` for the dtype. Another instruction set or BLAS
sums in another order, and a badly conditioned case amplifies the difference. The golden cases are
therefore run again with the result of each operation perturbed by about a rounding error, and
tolerances that are too narrow for the outcome are widened.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from torchship.script.errors import OutOfMemoryError, TorchShipError
from torchship.script.exporting.perturbation import ROUNDINGS, Perturbing, perturbed
from torchship.script.format.dtypes import BY_NAME
from torchship.script.format.golden import Case, Step, run_case
from torchship.script.format.manifest import Manifest, Method, Tolerance
from torchship.script.format.nodes import Node, TensorNode, leaves
from torchship.script.format.tree import Flat, matches
from torchship.script.runtime.program import Program

ROUNDS = 8  # perturbed runs of each case; the largest difference counts
NEGLIGIBLE = 1e-2  # fraction of the largest element below which the tolerance is absolute
DIGITS = 2  # significant digits of a tolerance
CHOICE = 2e-3  # fraction of the largest element above which a change is a different decision


def fitting(program: Program, cases: Sequence[Case]) -> dict[str, Method]:
    """Return the methods with tolerances that should hold for the cases on any instruction set.

    Args:
        program: the eager module with its manifest.
        cases: its golden cases, with their outputs.
    """
    manifest = program.manifest
    return {
        name: method.model_copy(update={"tolerances": _of_method(program, name, method, cases)})
        for name, method in manifest.methods.items()
    }


def initial(outputs: Node) -> dict[str, Tolerance]:
    """Return the default tolerance of each output, by name."""
    return {
        leaf.name: Tolerance(rtol=BY_NAME[leaf.dtype].rtol, atol=BY_NAME[leaf.dtype].atol)
        for leaf in leaves(outputs)
        if isinstance(leaf, TensorNode)
    }


def widened(manifest: Manifest) -> list[str]:
    """Return a line for each output whose tolerance is wider than its dtype's default."""
    return [
        f"output '{output}' of '{name}' is sensitive to rounding: its tolerance is atol "
        f"{tolerance.atol:g}, rtol {tolerance.rtol:g}"
        for name, method in manifest.methods.items()
        for output, tolerance in method.tolerances.items()
        if tolerance != initial(method.outputs)[output]
    ]


def _of_method(
    program: Program, name: str, method: Method, cases: Sequence[Case]
) -> dict[str, Tolerance]:
    tolerances = dict(method.tolerances)
    for case in cases:
        if case.method != name:
            continue
        for step, changes in zip(case.steps, _changes(program, method, case), strict=False):
            for output, change in changes.items():
                pattern = next(known for known in tolerances if matches(known, output))
                tolerances[pattern] = _wide_enough(
                    tolerances[pattern], step.outputs[output], change * ROUNDINGS
                )
    return tolerances


def _changes(program: Program, method: Method, case: Case) -> list[Flat]:
    """Return the largest change of each floating-point output in perturbed runs, by step."""
    largest: list[Flat] = [{} for _ in case.steps]
    generator = torch.Generator().manual_seed(0)
    for _ in range(ROUNDS):
        steps = tuple(
            Step({n: perturbed(t, generator) for n, t in step.inputs.items()}, step.outputs)
            for step in case.steps
        )
        try:
            with Perturbing(generator):
                results = run_case(program.call, method, Case(case.name, case.method, steps))
        except OutOfMemoryError:
            raise
        except TorchShipError:  # the model rejects the perturbed inputs
            return largest
        for known, step, result in zip(largest, case.steps, results, strict=True):
            for output, golden in step.outputs.items():
                other = result.get(output)
                if other is None or other.shape != golden.shape or not golden.is_floating_point():
                    continue
                change = (other.detach().double() - golden.detach().double()).abs()
                change = change.nan_to_num(0.0, 0.0)
                known[output] = torch.maximum(known[output], change) if output in known else change
    return largest


def _wide_enough(tolerance: Tolerance, golden: torch.Tensor, change: torch.Tensor) -> Tolerance:
    """Return the tolerance, widened for a change: relatively where elements are not small."""
    size = golden.detach().double().abs().nan_to_num(0.0, 0.0)
    missing = change - (tolerance.atol + tolerance.rtol * size)
    if missing.numel() == 0 or float(missing.max()) <= 0:
        return tolerance
    if float(change.max()) > CHOICE * float(size.max()):
        return tolerance
    small = size <= NEGLIGIBLE * size.max()
    relative = torch.where(small, 0.0, (change - tolerance.atol) / size.clamp(min=1e-300))
    rtol = max(tolerance.rtol, _rounded_up(float(relative.max())))
    left = float((change - rtol * size).max())
    return Tolerance(atol=max(tolerance.atol, _rounded_up(left)), rtol=rtol)


def _rounded_up(number: float) -> float:
    """Return the number rounded up to two digits; 0 if it is not positive."""
    if number <= 0:
        return 0.0
    step = 10.0 ** (torch.tensor(number, dtype=torch.float64).log10().floor().item() - DIGITS + 1)
    return float(f"{(number // step + 1) * step:.{DIGITS}g}")

"""How large LibTorch's own error of each golden output is.

The golden run is one sample of it, and the largest error varies much from run to run: where a step
is sensitive (a gate near its threshold), one element decides it. A run with another summation
order, no less accurate, may have a multiple of its error. The golden cases are therefore run again
with the result of each operation and the operands of each sum of products perturbed, and the
largest error of all these runs counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from torchship.script.errors import OutOfMemoryError, TorchShipError
from torchship.script.exporting.perturbation import ROUNDINGS, Perturbing
from torchship.script.format.float64_outputs import Float64Step
from torchship.script.format.golden import Case, run_case
from torchship.script.format.tree import Flat
from torchship.script.runtime.agreement import check_outputs
from torchship.script.runtime.error_bound import largest_error
from torchship.script.runtime.program import Program, check_inputs

ROUNDS = 8  # perturbed runs of each case


def with_errors(
    program: Program, number: int, case: Case, exact: Sequence[Flat]
) -> list[Float64Step]:
    """Return the float64 outputs of each step with LibTorch's own largest errors of them.

    Args:
        program: the eager module with its manifest, which has the final tolerances.
        number: of the case.
        case: the golden case.
        exact: the float64 outputs of each step.
    """
    runs = [[step.outputs for step in case.steps], *_perturbed_runs(program, number, case)]
    return [
        Float64Step(
            outputs,
            {
                name: max(
                    largest_error(run[index][name], step.outputs[name], output) for run in runs
                )
                for name, output in outputs.items()
            },
        )
        for index, (step, outputs) in enumerate(zip(case.steps, exact, strict=True))
    ]


def _perturbed_runs(program: Program, number: int, case: Case) -> list[list[Flat]]:
    """Return the outputs of perturbed runs, each of which carries its own state.

    A run in which the module refuses perturbed values does not count, nor does one that is beyond
    the tolerances: it took another decision.
    """
    method = program.manifest.methods[case.method]
    generator = torch.Generator().manual_seed(0)

    def call(name: str, inputs: Mapping[str, torch.Tensor]) -> Flat:
        # The inputs are copied outside of the mode, which would perturb them.
        symbols = check_inputs(method, inputs)
        copies = {key: value.detach().clone() for key, value in inputs.items()}
        with Perturbing(generator, ROUNDINGS, operands=True):
            outputs = program.run(name, copies, symbols)
        return {key: value.detach().clone() for key, value in outputs.items()}

    runs = []
    for _ in range(ROUNDS):
        try:
            run = run_case(call, method, case)
        except OutOfMemoryError:
            raise
        except TorchShipError:
            continue
        if all(found.agreed for found in check_outputs(program.manifest, number, case, run)):
            runs.append(run)
    return runs

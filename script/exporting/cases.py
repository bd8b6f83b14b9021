"""Derives golden cases from a user's examples.

They cover the ways in which real ports went wrong: other sizes than the example's, state that is
not zero, and more than one step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchship.script.errors import ExportError, InputError
from torchship.script.format.golden import Case, Step
from torchship.script.format.manifest import Method
from torchship.script.format.tree import Flat, flatten
from torchship.script.runtime.batch import axis_of, batch_axes, resize, row_count
from torchship.script.runtime.program import check_inputs

BATCHES = (1, 2, 5)
STEPS = 3


def derive(method_name: str, method: Method, examples: Sequence[Case]) -> list[Case]:
    """Return further cases: batches of 1, 2 and 5 rows, and three steps if there is state.

    Values are taken from the examples' rows, so that they stay in the model's domain.
    """
    if not examples:
        return []
    cases = []
    state_inputs = {state.input for state in method.state}
    if state_inputs:
        for case in examples:
            if len(case.steps) == 1:
                cases.append(_unroll(case, method, state_inputs))
    axes = batch_axes(method)
    if axes:
        known_sizes = {row_count(case.steps[0].inputs, axes) for case in examples}
        base = max(examples, key=lambda case: row_count(case.steps[0].inputs, axes))
        for size in BATCHES:
            if size not in known_sizes:
                steps = tuple(Step(resize(step.inputs, axes, size)) for step in base.steps)
                resized = Case(f"batch {size}", method_name, steps)
                if state_inputs and len(steps) == 1:
                    resized = _unroll(resized, method, state_inputs)
                cases.append(resized)
    return cases


def _unroll(case: Case, method: Method, state_inputs: set[str]) -> Case:
    """Return the case with three steps: the same inputs, rolled along the batch each time."""
    axes = batch_axes(method)
    first = case.steps[0].inputs
    steps = [Step(first)]
    for number in range(1, STEPS):
        inputs: Flat = {}
        for name, tensor in first.items():
            if name in state_inputs:
                continue
            axis = axis_of(name, axes)
            inputs[name] = tensor if axis is None else tensor.roll(number, axis)
        steps.append(Step(inputs))
    return Case(f"{case.name}, {STEPS} steps", case.method, tuple(steps))


def flatten_example(method: Method, arguments: Mapping[str, object]) -> Flat:
    """Return an example's keyword arguments as flat inputs.

    Raises:
        ExportError: it has an argument that the signature lacks, or an argument's structure
            differs from the examples from which the signature was inferred.
    """
    known = {argument.name: argument.value for argument in method.inputs}
    flat: Flat = {}
    for name, value in arguments.items():
        if name not in known:
            raise ExportError(
                f"a step of an example gives the argument '{name}': expected "
                f"{', '.join(known) or 'none'}, as in the first steps"
            )
        try:
            flat |= flatten(known[name], value)
        except TypeError as error:
            raise ExportError(
                f"the argument '{name}' differs in structure from step to step: {error}"
            ) from None
    try:
        check_inputs(method, flat)
    except InputError as error:
        raise ExportError(f"a step of an example does not fit the first ones: {error}") from None
    return flat

"""Calls the eager module with variations of the examples, for a more reliable signature."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain

import torch

from torchship.script.errors import ExportError
from torchship.script.exporting.compiled import refuse_other_structure
from torchship.script.exporting.signature import infer_inputs, infer_outputs
from torchship.script.exporting.variations import other_numbers, other_sizes, other_values
from torchship.script.format.manifest import Argument
from torchship.script.format.nodes import Node, leaves
from torchship.script.format.tree import Flat, build, flatten, matches
from torchship.script.runtime import torchscript

Arguments = Mapping[str, object]


def infer_method(
    module: torch.nn.Module,
    scripted: torch.jit.ScriptModule,
    name: str,
    calls: Sequence[Arguments],
    outputs: Sequence[str],
    dims: Mapping[str, str],
    fixed: bool,
) -> tuple[tuple[Argument, ...], Node]:
    """Infer the arguments of a method and the tree of its results; see `signature`.

    Output sizes that are constant in the examples, or equal to an input's size, must be so in the
    trial calls too. `outputs` names the items of a top-level tuple.

    Raises:
        ExportError: as `infer_inputs` and `infer_outputs`, or the compiled module's result has
            another structure than the eager one's.
    """
    schema = torchscript.schema(scripted, name)
    inputs, symbols = infer_inputs(schema, calls, dims, fixed)
    results = [_run(module, name, call) for call in calls]
    refuse_other_structure(scripted, name, calls[0], results[0])
    infer_outputs(schema, results, outputs, symbols)  # raises if the results are not tensors
    observed = list(calls)
    for call, result in trial_calls(module, name, inputs, calls):
        with suppress(ExportError):  # another rank or dtype, which no signature can express
            infer_outputs(schema, [results[0], result], outputs, symbols)
            observed.append(call)
            results.append(result)
    inputs, symbols = infer_inputs(schema, observed, dims, fixed)
    return inputs, infer_outputs(schema, results, outputs, symbols)


def trial_calls(
    module: torch.nn.Module, name: str, inputs: Sequence[Argument], calls: Sequence[Arguments]
) -> Iterator[tuple[Arguments, object]]:
    """Yield trial calls (other sizes, numbers and values than the examples) and their results.

    Calls that the module rejects are skipped.
    """
    for call in _largest(inputs, calls):
        flat = _flat(inputs, call)
        for changed in chain(
            other_sizes(inputs, flat), other_numbers(inputs, flat), other_values(inputs, flat)
        ):
            arguments = {**call, **_nested(inputs, changed)}
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    result = _run(module, name, arguments)
            except Exception:
                continue
            yield arguments, result


def _run(module: torch.nn.Module, name: str, arguments: Arguments) -> object:
    with torch.no_grad():
        return getattr(module, name)(**copy.deepcopy(dict(arguments)))


def _largest(inputs: Sequence[Argument], calls: Sequence[Arguments]) -> list[Arguments]:
    """Return the largest call for each set of inputs."""
    found: dict[frozenset[str], tuple[int, Arguments]] = {}
    for call in calls:
        flat = _flat(inputs, call)
        size = sum(tensor.numel() for tensor in flat.values())
        known = found.get(frozenset(flat))
        if known is None or known[0] < size:
            found[frozenset(flat)] = size, call
    return [call for _, call in found.values()]


def _flat(inputs: Sequence[Argument], call: Arguments) -> Flat:
    flat: Flat = {}
    for argument in inputs:
        if argument.name in call:
            flat |= flatten(argument.value, call[argument.name])
    return flat


def _nested(inputs: Sequence[Argument], flat: Flat) -> dict[str, object]:
    """Return the arguments that have a leaf in `flat`."""
    return {
        argument.name: build(argument.value, flat)
        for argument in inputs
        if any(matches(leaf.name, name) for leaf in leaves(argument.value) for name in flat)
    }

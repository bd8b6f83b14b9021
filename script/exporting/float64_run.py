"""Runs golden cases in float64, which shows how large LibTorch's own error is.

The eager module runs with float64 weights and inputs, and every operation that would make a lower
precision makes float64, so that a `.float()` inside a module rounds nothing. Many modules cannot
run so: they check dtypes, or use an operator that has no float64. They have no float64 outputs.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from torchship.script.exporting import own_error
from torchship.script.exporting.eager import first_line
from torchship.script.format.float64_outputs import (
    LOWER_PRECISIONS,
    Float64Outputs,
    of_lower_precision,
    within_limit,
)
from torchship.script.format.golden import Case, Step, run_case
from torchship.script.format.manifest import Manifest, Method
from torchship.script.format.nodes import Node, TensorNode
from torchship.script.format.tree import Flat, map_children
from torchship.script.runtime.agreement import check_outputs
from torchship.script.runtime.program import Program

# Bytes. The run needs three times as many for a copy in float64, and an export of large weights
# shall take no more than three times their memory in all.
MAX_WEIGHTS = 48 << 20

_NAMES = frozenset(str(dtype).removeprefix("torch.") for dtype in LOWER_PRECISIONS)
_log = logging.getLogger(__name__)


def float64_outputs(
    manifest: Manifest, module: torch.nn.Module, cases: Sequence[Case]
) -> Float64Outputs:
    """Return the float64 outputs of those golden cases that can run in float64, and their errors.

    A case is left out if its float64 outputs do not agree with the golden ones: the module then
    took another decision, or computed something else. The largest cases are left out if all
    together are too large for an archive. The reasons are logged. The module stays unchanged.

    Args:
        manifest: with the final tolerances.
        module: the eager module.
        cases: its golden cases, with their outputs.
    """
    found: dict[int, Sequence[Flat]] = {}
    weights = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    if weights > MAX_WEIGHTS:
        _log.info("no float64 outputs: the weights have more than %d bytes", MAX_WEIGHTS)
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = Program(_doubled_manifest(manifest), copy.deepcopy(module).double())
        for number, case in enumerate(cases):
            outputs, reason = _run(manifest, program, number, case)
            if reason:
                _log.info("no float64 outputs of '%s': %s", case.name, reason)
            elif any(outputs):
                found[number] = outputs
    except (Exception, SystemExit) as error:  # whatever a module does when it is copied
        _log.info("no float64 outputs: %s: %s", type(error).__name__, first_line(error))
    kept = within_limit(found)
    for number in sorted(set(found) - set(kept)):
        _log.info("no float64 outputs of '%s': they are too large", cases[number].name)
    eager = Program(manifest, module)
    return {
        number: own_error.with_errors(eager, number, cases[number], outputs)
        for number, outputs in kept.items()
    }


def _run(
    manifest: Manifest, program: Program, number: int, case: Case
) -> tuple[Sequence[Flat], str]:
    """Return the float64 outputs of each step, or none and the reason."""
    given = [Step({n: _doubled(t) for n, t in step.inputs.items()}) for step in case.steps]
    method = program.manifest.methods[case.method]
    try:
        with _float64_everywhere():
            results = run_case(program.call, method, Case(case.name, case.method, tuple(given)))
    except (Exception, SystemExit) as error:
        return (), f"{type(error).__name__}: {first_line(error)}"
    rounded = [
        {name: _like(tensor, step.outputs.get(name)) for name, tensor in flat.items()}
        for step, flat in zip(case.steps, results, strict=True)
    ]
    wrong = next((d for d in check_outputs(manifest, number, case, rounded) if not d.agreed), None)
    if wrong:
        return (), f"step {wrong.step}, output '{wrong.output}': {wrong.reason}"
    steps = zip(case.steps, results, strict=True)
    return [{name: flat[name] for name in of_lower_precision(step)} for step, flat in steps], ""


def _like(tensor: torch.Tensor, golden: torch.Tensor | None) -> torch.Tensor:
    return tensor if golden is None else tensor.to(golden.dtype)


def _doubled_manifest(manifest: Manifest) -> Manifest:
    methods = {name: _doubled_method(method) for name, method in manifest.methods.items()}
    return manifest.model_copy(update={"methods": methods})


def _doubled_method(method: Method) -> Method:
    inputs = tuple(
        argument.model_copy(update={"value": _doubled_node(argument.value)})
        for argument in method.inputs
    )
    return method.model_copy(update={"inputs": inputs, "outputs": _doubled_node(method.outputs)})


def _doubled_node(node: Node) -> Node:
    if isinstance(node, TensorNode):
        return node.model_copy(update={"dtype": "float64"}) if node.dtype in _NAMES else node
    return map_children(node, _doubled_node)


def _doubled(value: Any) -> Any:
    """Return float64 for a lower precision, be it a dtype or a tensor's; others unchanged."""
    if isinstance(value, torch.dtype):
        return torch.float64 if value in LOWER_PRECISIONS else value
    if isinstance(value, torch.Tensor) and value.dtype in LOWER_PRECISIONS:
        return value.double()
    return value


@contextmanager
def _float64_everywhere() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings(), _InFloat64():  # type: ignore[no-untyped-call]
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(before)


class _Doubling:
    """Runs every operation in float64, also on tensors that `Module.double` does not reach.

    It is a class of its own because torch imports its compiler, which takes seconds, for the first
    call of a mode that defines `__torch_dispatch__` itself.
    """

    def __torch_dispatch__(
        self,
        operation: Any,
        types: object,
        arguments: tuple[object, ...] = (),
        keywords: Mapping[str, object] | None = None,
    ) -> object:
        given: tuple[tuple[object, ...], dict[str, object]] = (arguments, dict(keywords or {}))
        _refuse_writes(operation, *given)
        arguments, keywords = tree_map(_doubled, given)
        return operation(*arguments, **keywords)


class _InFloat64(_Doubling, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The mode in which every operation runs in float64."""


def _refuse_writes(
    operation: Any, arguments: tuple[object, ...], keywords: Mapping[str, object]
) -> None:
    """Refuse to write to a tensor of lower precision, in place of which a copy would be written."""
    schema = operation._schema.arguments
    named = zip((argument.name for argument in schema), arguments, strict=False)
    values = {**dict(named), **keywords}
    for argument in schema:
        value = values.get(argument.name)
        writes = argument.alias_info is not None and argument.alias_info.is_write
        if writes and isinstance(value, torch.Tensor) and value.dtype in LOWER_PRECISIONS:
            raise NotImplementedError(f"{operation} writes to a tensor of {value.dtype}")

"""Finds the first submodule whose output differs when it gets the eager module's input."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from torchship.script.errors import ModelError
from torchship.script.exporting.eager import same
from torchship.script.format.golden import Case, run_case
from torchship.script.runtime.program import Program

ROUNDING = 4  # units in the last place


@dataclass(frozen=True)
class Visit:
    """One call of a submodule in the eager module."""

    path: str
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    result: object


def first_difference(eager: torch.nn.Module, program: Program, case: Case) -> str:
    """Return a text that names the first submodule that differs from the eager one.

    Each submodule is called with its input in the eager module, so that an upstream error does not
    show up downstream. If no submodule differs, the code of the top module does. The text is empty
    if both modules return the same outputs for the case.
    """
    method = program.method(case.method)
    try:
        ours = run_case(Program(program.manifest, eager).call, method, case)
        if _close(ours, run_case(program.call, method, case)):
            return ""
    except ModelError:
        pass  # one of them fails and the other does not: find the submodule
    compiled = dict(program.module.named_modules())
    for visit in _record(eager, Program(program.manifest, eager), case):
        module = compiled.get(visit.path)
        if module is None:
            return f"the compiled module has no submodule '{visit.path}'"
        try:
            with torch.inference_mode():
                result = module(*visit.arguments, **visit.keywords)
        except Exception as error:
            return f"first submodule that differs: '{visit.path}' ({type(error).__name__})"
        if not _close(result, visit.result):
            own = dict(eager.named_modules())[visit.path]
            return f"first submodule that differs: '{visit.path}'{_weights(own, module)}"
    weights = _weights(eager, program.module)
    return f"no submodule differs, the module's own code or state does{weights}"


def _record(eager: torch.nn.Module, program: Program, case: Case) -> list[Visit]:
    visits: list[Visit] = []
    entered: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hooks: list[RemovableHandle] = []

    def before(_: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        # Copies, because an in-place layer would overwrite the recorded input.
        entered.append((copy.deepcopy(arguments), copy.deepcopy(keywords)))

    for path, module in eager.named_modules():
        if not path or isinstance(module, torch.jit.ScriptModule):  # these do not accept such hooks
            continue

        def hook(
            _: torch.nn.Module,
            __: tuple[Any, ...],
            ___: dict[str, Any],
            result: object,
            path: str = path,
        ) -> None:
            visits.append(Visit(path, *entered.pop(), copy.deepcopy(result)))

        hooks.append(module.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(module.register_forward_hook(hook, with_kwargs=True))
    try:
        with contextlib.suppress(ModelError):  # calls before the failure are recorded
            run_case(program.call, program.method(case.method), case)
    finally:
        for handle in hooks:
            handle.remove()
    return visits


def _close(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return _equal_up_to_rounding(a, b) if a.is_floating_point() else torch.equal(a, b)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(_close(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_close(a[key], b[key]) for key in a)
    return a == b


def _equal_up_to_rounding(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether elements differ by at most a few units in the last place of the largest."""
    largest = float(b.abs().nan_to_num(0, 0, 0).max()) if b.numel() else 0.0
    tolerance = ROUNDING * torch.finfo(b.dtype).eps * largest
    return torch.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True)


def _weights(eager: torch.nn.Module, compiled: torch.nn.Module) -> str:
    """Return a text with the parameters and buffers that differ, or ""."""
    ours, theirs = eager.state_dict(), compiled.state_dict()
    differing = [
        name
        for name in {**ours, **theirs}
        if name not in ours or name not in theirs or not same(ours[name], theirs[name])
    ]
    return f" (its {', '.join(differing)} differ)" if differing else ""

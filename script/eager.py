"""What an eager module must not do if its archive is to compute the same numbers.

Every function here raises ExportError, with what to change.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping

import torch

from torchship.script.errors import ExportError


def refuse_training(module: torch.nn.Module) -> None:
    """Refuse a module of which a part is in training mode."""
    training = [name or "the module itself" for name, sub in module.named_modules() if sub.training]
    if training:
        raise ExportError(
            f"the module is in training mode ({training[0]}): dropout and batch normalisation "
            "would not be what you ship; call .eval() in the factory, or say --eval"
        )


def refuse_non_finite(module: torch.nn.Module) -> None:
    """Refuse weights and buffers that hold NaN or infinities."""
    named = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in named:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise ExportError(
                f"'{name}' holds {bad} NaN or infinite values of {tensor.numel()}: "
                "expected finite weights"
            )


def refuse_misbehaviour(
    module: torch.nn.Module, name: str, number: int, arguments: Mapping[str, object]
) -> None:
    """Call the eager module twice, and refuse what it must not do: reject, change, remember."""
    before = {key: value.clone() for key, value in module.state_dict().items()}
    results = []
    for _ in range(2):
        given = copy.deepcopy(dict(arguments))
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results.append(getattr(module, name)(**given))
        except Exception as error:
            raise ExportError(
                f"the module's {name} rejects example {number}: {type(error).__name__}: {error}"
            ) from error
        for key, value in given.items():
            if not same(value, arguments[key]):
                raise ExportError(
                    f"the module's {name} changes its argument '{key}' in place: the caller would "
                    "see it; work on a copy"
                )
    for key, value in module.state_dict().items():
        if not same(value, before[key]):
            raise ExportError(
                f"the module's {name} changes its buffer '{key}': state hidden in the module is "
                "lost between runtimes; take it as an argument and return it (--state)"
            )
    if not same(results[0], results[1]):
        raise ExportError(
            f"two equal calls of the module's {name} differ: state is hidden in an attribute, or "
            "it draws random numbers; take the state or the seed as an argument"
        )


def same(a: object, b: object) -> bool:
    """Whether two nested values are equal to the bit, NaN being equal to itself."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or a != a)

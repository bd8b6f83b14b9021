"""Checks of an eager module, without which its archive might compute other numbers.

Every `refuse_` function raises ExportError, which says what to change.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from torchship.script.errors import ExportError
from torchship.script.exporting.values import refuse_foreign
from torchship.script.format.plain_tensors import plain
from torchship.script.runtime import torchscript
from torchship.script.runtime.fingerprint import blocks, fingerprint, is_dense

INTERNAL = frozenset(vars(torch.nn.Module()))  # attributes of every module


def refuse_training(module: torch.nn.Module) -> None:
    """Refuse a module if a part of it is in training mode."""
    # Some compiled modules have no mode: a frozen one is always in eval mode.
    modes = {name: getattr(sub, "training", False) for name, sub in module.named_modules()}
    training = [name or "the module itself" for name, is_training in modes.items() if is_training]
    if not training:
        return
    why = "dropout and batch normalisation would not be what you ship; call .eval() in the factory"
    quantised = [name for name, sub in module.named_modules() if _is_quantised(sub)]
    if not modes[""] and all(
        any(f"{name}.".startswith(f"{made}.") for made in quantised) for name in training
    ):
        why = "quantisation makes its modules in that mode; call .eval() on what it returns"
    raise ExportError(f"the module is in training mode ({training[0]}): {why}, or say --eval")


def _is_quantised(module: torch.nn.Module) -> bool:
    return any(kind.__module__.startswith("torch.ao.nn.") for kind in type(module).__mro__)


def refuse_strange_tensors(module: torch.nn.Module) -> None:
    """Refuse weights, buffers and other tensors that are not dense tensors on the CPU."""
    for name, value in _attributes(module).items():
        refuse_foreign(value, f"'{name}'")


def refuse_non_finite(module: torch.nn.Module) -> None:
    """Refuse tensors of the module that contain NaN, and weights that contain infinities.

    In a buffer or another untrained tensor an infinity is intended, for example as a mask that is
    added to scores. In a weight it comes from a training that diverged.
    """
    for name, value in _tensors(_attributes(module)):
        if not value.is_floating_point() and not value.is_complex():
            continue
        if value.dtype == torch.float4_e2m1fn_x2:  # has neither NaN nor infinities
            continue
        nans = infinities = 0
        for block in blocks(value):
            numbers = block.float() if block.itemsize == 1 else block
            nans += int(numbers.isnan().sum())
            infinities += int(numbers.isinf().sum())
        if nans:
            raise ExportError(
                f"'{name}' holds {nans} NaN of {value.numel()} values: expected numbers"
            )
        if infinities and value.requires_grad:
            raise ExportError(
                f"'{name}' holds {infinities} infinite values of {value.numel()}: expected finite "
                "weights; a mask belongs into a buffer, or needs no gradient"
            )


def refuse_too_large(module: torch.nn.Module, most: int) -> None:
    """Refuse a module whose tensors have more than `most` bytes, an archive's limit."""
    sizes = {}  # by storage, which tensors may share
    for _, value in _tensors(_attributes(module)):
        memory = value.untyped_storage()
        sizes[memory.data_ptr()] = memory.nbytes()
    if sum(sizes.values()) > most:
        raise ExportError(
            f"the module's tensors have {sum(sizes.values())} bytes: an archive's limit is "
            f"{most} bytes ({most >> 30} GiB); store them in half precision, or ship parts of the "
            "module one by one"
        )


def _tensors(value: object, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the dense tensors in a nested value, each with its dotted name."""
    if isinstance(value, torch.Tensor):
        if is_dense(value):
            yield name, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _tensors(item, f"{name}.{key}" if name else str(key))


def _attributes(module: torch.nn.Module) -> dict[str, object]:
    """Return what can hold state: a module's tensors and plain values, by dotted name."""
    found: dict[str, object] = {}
    for path, sub in module.named_modules():
        kept = torchscript.attributes(sub) if isinstance(sub, torch.jit.ScriptModule) else vars(sub)
        own = {
            **kept,
            **dict(sub.named_parameters(recurse=False)),
            **dict(sub.named_buffers(recurse=False)),
        }
        for name, value in own.items():
            if name not in INTERNAL and _is_plain(value):
                found[f"{path}.{name}" if path else name] = value
    return found


def _is_plain(value: object) -> bool:
    """Return whether a value is a tensor, number or string, or made of them."""
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, torch.Tensor | bool | int | float | str)


def refuse_misbehaviour(
    module: torch.nn.Module, calls: Mapping[str, Sequence[Mapping[str, object]]]
) -> None:
    """Call the eager module with every example twice, the second time in reverse order.

    Refuses modules that reject an example, change their arguments or themselves, or return
    different results for the same arguments.
    """
    all_calls = [
        (name, number, arguments)
        for name, examples in calls.items()
        for number, arguments in enumerate(examples)
    ]
    before = fingerprint(_attributes(module))
    first = [_call(module, *one_call) for one_call in all_calls]
    second = [_call(module, *one_call) for one_call in reversed(all_calls)]
    for one_call, once, again in zip(all_calls, first, reversed(second), strict=True):
        if not same(once, again):
            raise ExportError(
                f"two equal calls of the module's {one_call[0]} differ: state is hidden in an "
                "attribute, or it draws random numbers; take the state or the seed as an argument"
            )
    after = fingerprint(_attributes(module))
    for name in {**before, **after}:
        if not same(before.get(name), after.get(name)):
            raise ExportError(
                f"calling the module changes its '{name}': "
                + (
                    "what a first call fills is not there in other runtimes; call the module once "
                    "in the factory"
                    if _is_stable(module, name, all_calls)
                    else "state hidden in the module is lost between runtimes; take it as an "
                    "argument and return it (--state)"
                )
            )


def _is_stable(
    module: torch.nn.Module, name: str, all_calls: Sequence[tuple[str, int, Mapping[str, object]]]
) -> bool:
    """Return whether further calls leave an attribute unchanged that the first calls changed."""
    stable = copy.deepcopy(detached(_attributes(module).get(name)))
    for one_call in all_calls:
        _call(module, *one_call)
    return same(stable, detached(_attributes(module).get(name)))


def _call(
    module: torch.nn.Module, name: str, number: int, arguments: Mapping[str, object]
) -> object:
    """Return a copy of a call's result; refuse calls that change their arguments."""
    given = copy.deepcopy(dict(arguments))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = getattr(module, name)(**given)
    except (Exception, SystemExit) as error:
        raise ExportError(
            f"the module's {name} rejects example {number}: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    refuse_foreign(result, f"what the module's {name} returns")
    for key, value in given.items():
        if not same(value, arguments[key]):
            raise ExportError(
                f"the module's {name} changes its argument '{key}' in place: the caller would "
                "see it; work on a copy"
            )
    return copy.deepcopy(detached(result))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def detached(value: Any) -> Any:
    """Return a nested value with plain tensors: not lazy, no gradient, no subclass."""
    if isinstance(value, torch.Tensor):
        return plain(value).as_subclass(torch.Tensor)
    if isinstance(value, dict):
        return {key: detached(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(detached(item) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(detached(item) for item in value)
    return value


def same(a: object, b: object) -> bool:
    """Return whether two nested values are equal, where NaN equals NaN."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        try:
            return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
        except NotImplementedError:  # torch cannot compare bit, int4 and complex-half dtypes
            return torch.equal(_bytes(a), _bytes(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or a != a)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)

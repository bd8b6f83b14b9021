"""What an eager module must not do if its archive is to compute the same numbers.

Every function here raises ExportError, with what to change.
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

INTERNAL = frozenset(vars(torch.nn.Module()))  # what every module keeps for itself


def refuse_training(module: torch.nn.Module) -> None:
    """Refuse a module of which a part is in training mode."""
    # Some compiled modules have no mode: a frozen one is in eval mode for good.
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
    """Refuse weights, buffers and other tensors that are not dense ones with values on the CPU."""
    for name, value in _attributes(module).items():
        refuse_foreign(value, f"'{name}'")


def refuse_non_finite(module: torch.nn.Module) -> None:
    """Refuse tensors of the module that hold NaN, and weights that hold infinities.

    An infinity is what a mask adds to scores that shall not count: in a buffer, in another tensor
    that nobody trains, it is meant. In a weight it is what training left when it diverged.
    """
    for name, value in _tensors(_attributes(module)):
        if not value.is_floating_point() and not value.is_complex():
            continue
        if value.dtype == torch.float4_e2m1fn_x2:  # it has neither
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
    """Refuse a module whose tensors have more bytes than an archive may have."""
    sizes = {}  # of memory, which tensors may share
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
    """Yield the dense tensors of a nested value, each with its dotted name."""
    if isinstance(value, torch.Tensor):
        if is_dense(value):
            yield name, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _tensors(item, f"{name}.{key}" if name else str(key))


def _attributes(module: torch.nn.Module) -> dict[str, object]:
    """Return what a module could remember: its tensors and plain values, by dotted name."""
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
    """Whether a value is a tensor, a number, a text, or made of them."""
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, torch.Tensor | bool | int | float | str)


def refuse_misbehaviour(
    module: torch.nn.Module, calls: Mapping[str, Sequence[Mapping[str, object]]]
) -> None:
    """Call the eager module with every example, twice and in another order.

    Refuses what a module must not do: reject an example, change its arguments or itself, or
    answer the same question in two ways.
    """
    questions = [
        (name, number, arguments)
        for name, examples in calls.items()
        for number, arguments in enumerate(examples)
    ]
    before = fingerprint(_attributes(module))
    first = [_ask(module, *question) for question in questions]
    second = [_ask(module, *question) for question in reversed(questions)]
    for question, once, again in zip(questions, first, reversed(second), strict=True):
        if not same(once, again):
            raise ExportError(
                f"two equal calls of the module's {question[0]} differ: state is hidden in an "
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
                    if _is_settled(module, name, questions)
                    else "state hidden in the module is lost between runtimes; take it as an "
                    "argument and return it (--state)"
                )
            )


def _is_settled(
    module: torch.nn.Module, name: str, questions: Sequence[tuple[str, int, Mapping[str, object]]]
) -> bool:
    """Whether an attribute that earlier calls changed stays as it is in further calls."""
    settled = copy.deepcopy(detached(_attributes(module).get(name)))
    for question in questions:
        _ask(module, *question)
    return same(settled, detached(_attributes(module).get(name)))


def _ask(
    module: torch.nn.Module, name: str, number: int, arguments: Mapping[str, object]
) -> object:
    """Return a copy of what the module answers; its arguments must stay as they were."""
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
    """Return the first line of an error's message, or its kind when it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def detached(value: Any) -> Any:
    """Return a nested value whose tensors carry nothing lazily, no gradient and no subclass."""
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
    """Whether two nested values are equal to the bit, NaN being equal to itself."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        try:
            return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
        except NotImplementedError:  # torch compares no bits, no int4, no complex halves
            return torch.equal(_bytes(a), _bytes(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or a != a)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)

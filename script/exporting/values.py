"""Checks which values an archive can carry, and describes values in messages."""

from __future__ import annotations

import torch
from torch.nn.parameter import is_lazy

from torchship.script.errors import ExportError
from torchship.script.format.dtypes import name_of


def refuse_foreign(value: object, what: str, place: str = "") -> None:
    """Refuse values that are not made of tensors, numbers, strings, None, tuples, lists and dicts.

    Raises:
        ExportError: `what` contains something else at `place`, or an unsupported tensor.
    """
    named = f"{what}, at {place}," if place else what
    if isinstance(value, torch.Tensor):
        refuse_strange_tensor(value, named)
    elif isinstance(value, dict):
        for key, item in value.items():
            refuse_foreign(item, what, f"{place}[{key!r:.40}]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            refuse_foreign(item, what, f"{place}[{index}]")
    elif isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ExportError(
                f"{named} is text with half a character (a surrogate): expected Unicode"
            )
    elif value is not None and not isinstance(value, bool | int | float | complex):
        remedy = "; torch.as_tensor makes one" if type(value).__module__ == "numpy" else ""
        raise ExportError(
            f"{named} is of the type {type(value).__qualname__}: expected tensors, numbers, "
            f"strings, and tuples, lists and dicts of them{remedy}"
        )


def refuse_strange_tensor(tensor: torch.Tensor, what: str) -> None:
    """Refuse a tensor that is not a dense one with values in CPU memory.

    Most operators with which modules are compared and saved do not support such tensors.

    Raises:
        ExportError: the message says what is unsupported, and what to do.
    """
    strange = _unsupported(tensor)
    if strange:
        raise ExportError(f"{what} {strange}")


def _unsupported(tensor: torch.Tensor) -> str | None:
    if is_lazy(tensor):
        return (
            "has no size yet, being of a lazy module: call the module once in the factory, before "
            "weights are loaded"
        )
    # A subclass without a dispatch of its own is saved like a plain tensor.
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return (
            f"is a {type(tensor).__name__}: expected a torch.Tensor itself, since a subclass's "
            "own code is not in an archive"
        )
    if tensor.is_nested:
        return "is a nested tensor: expected a dense one; pad it, and give the lengths beside it"
    if tensor.is_mkldnn:
        return "is an MKLDNN tensor: expected a dense one; leave to_mkldnn() out, or .to_dense() it"
    if tensor.layout != torch.strided:
        layout = str(tensor.layout).removeprefix("torch.")
        return f"is a sparse tensor ({layout}): expected a dense one; .to_dense() it"
    if tensor.device.type == "meta":
        return (
            "is on the device 'meta', where tensors have no values: make it on the CPU, or load "
            "weights by load_state_dict(..., assign=True)"
        )
    if tensor.device.type != "cpu":
        return f"is on the device '{tensor.device}': expected the CPU; .cpu() it"
    return None


def outline(value: object) -> str:
    """Return a value's structure on one line, such as `(Tensor, {'a': Tensor})`.

    A NamedTuple counts as a tuple, and a dict's keys are sorted.
    """
    if isinstance(value, torch.Tensor):
        return "Tensor"
    if isinstance(value, dict):
        items = sorted((repr(key), outline(item)) for key, item in value.items())
        return "{" + ", ".join(f"{key}: {item}" for key, item in items) + "}"
    if isinstance(value, tuple):
        inner = ", ".join(map(outline, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, list):
        return "[" + ", ".join(map(outline, value)) + "]"
    return "None" if value is None else type(value).__name__


def describe(value: object) -> str:
    """Return a description for messages: a tensor's dtype and shape, else outline or type."""
    if isinstance(value, torch.Tensor) and not _unsupported(value):
        return f"a tensor {name_of(value.dtype)}{list(value.shape)}"
    if isinstance(value, dict | list | tuple) and len(value) <= 8:
        return outline(value)
    return type(value).__name__

"""Branches: one that is known is followed; of two that are not, the results are merged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torchship.native.importing.graph import debug_name
from torchship.native.importing.importer import Importer
from torchship.native.importing.operators.scalars import c_of
from torchship.native.importing.registry import Raised, operator, outcome
from torchship.native.importing.values import (
    UNINITIALISED,
    DictValue,
    ListValue,
    Optional,
    Tensor,
    is_plain,
    is_size,
    is_tensor,
    kind_of,
)
from torchship.native.ir import sizes
from torchship.native.ir.layout import contiguous_strides, element_count
from torchship.native.ir.program import Assign, Declare, If, Scalar, Statement, Storage, View


@operator("prim::If")
def branch(importer: Importer, node: Any, arguments: list[Any]) -> object:
    """Follow the branch that is known to be taken, or write both."""
    truth = importer.truth(arguments[0])
    if isinstance(truth, bool):
        chosen = list(node.blocks())[0 if truth else 1]
        importer.block(chosen)
        return outcome([importer.value(value) for value in chosen.outputs()])
    return outcome(_both(importer, node, truth))


def _both(importer: Importer, node: Any, truth: Scalar) -> list[object]:
    """Write both branches in C, and return the results of the one that will be taken."""
    blocks = list(node.blocks())
    where, note = importer.builder.where, importer.builder.note
    branches: list[list[Statement]] = [[], []]
    results: list[list[object] | None] = [None, None]
    for which, (block, taken) in enumerate(zip(blocks, (True, False), strict=True)):
        with (
            importer.builder.inside(branches[which]),
            _assuming(importer, truth.text, taken),
            importer.inside_scope("branch"),
        ):
            try:
                importer.block(block)
                results[which] = [importer.value(value) for value in block.outputs()]
            except Raised:
                pass
    statement = If(truth, *branches, where=where, note=note)
    if results[0] is None and results[1] is None:
        importer.builder.add(statement)
        raise Raised
    merged: list[object] = []
    for value, pair in zip(
        node.outputs(),
        zip(*(r or [None] * len(list(node.outputs())) for r in results), strict=True),
        strict=True,
    ):
        if results[0] is None or results[1] is None:
            merged.append(pair[0] if results[1] is None else pair[1])
        else:
            importer.builder.hint = debug_name(value)
            merged.append(_merge(importer, truth, branches, *pair))
            if pair[0] is True and isinstance(merged[-1], Scalar):
                both = [truth.text, pair[1].text if isinstance(pair[1], Scalar) else ""]
                importer.at_least_0[merged[-1].text] = [
                    size for text in both for size in importer.at_least_0.get(text, ())
                ]
    # What follows a branch that raises is the other one: its variables are seen after it.
    following: list[Statement] = []
    for which in (0, 1):
        if results[1 - which] is None:
            following, branches[which][:] = list(branches[which]), []
    if branches[0] or branches[1]:
        importer.builder.add(statement)
    importer.builder.block += following
    if results[0] is None:
        for size in importer.at_least_0.get(truth.text, ()):
            sizes.assume_at_least_0(size)
    return merged


@contextmanager
def _assuming(importer: Importer, text: str, taken: bool) -> Iterator[None]:
    importer.assumed[text] = taken
    try:
        yield
    finally:
        del importer.assumed[text]


def _merge(
    importer: Importer, condition: Scalar, branches: list[list[Statement]], a: object, b: object
) -> object:
    """Return the value that is `a` if the condition holds, else `b`."""
    if a is UNINITIALISED or b is UNINITIALISED:
        which = 1 if a is UNINITIALISED else 0
        return _kept(importer, branches[which], (a, b)[which])
    if a is b or (is_plain(a) and is_plain(b) and type(a) is type(b) and a == b):
        return a
    if isinstance(a, View) and isinstance(b, View) and a.same_elements(b):
        return a
    if is_size(a) and is_size(b) and sizes.equal(a, b) is True:
        return a
    if isinstance(a, Optional) and a.flag == condition.text:
        a = a.value
    if b is None:
        return Optional(condition.text, _kept(importer, branches[0], a))
    if a is None:
        return Optional(
            importer.define("bool", Scalar("bool", f"!{c_of(condition)}")).text,
            _kept(importer, branches[1], b),
        )
    if isinstance(a, Optional) or isinstance(b, Optional):
        return _merge_optionals(importer, condition, branches, a, b)
    if isinstance(a, ListValue) and isinstance(b, ListValue) and len(a.items) == len(b.items):
        pairs = zip(a.items, b.items, strict=True)
        return ListValue(
            [_merge(importer, condition, branches, *pair) for pair in pairs], importer.scope
        )
    if isinstance(a, DictValue) and isinstance(b, DictValue) and list(a) == list(b):
        return DictValue(
            {key: _merge(importer, condition, branches, a[key], b[key]) for key in a},
            importer.scope,
        )
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return tuple(
            _merge(importer, condition, branches, *pair) for pair in zip(a, b, strict=True)
        )
    if is_tensor(a) and is_tensor(b):
        return merge_tensors(importer, branches, a, b)  # type: ignore[arg-type]
    kinds = {kind_of(a), kind_of(b)}
    if len(kinds) == 1 and (kind := kinds.pop()):
        return _merge_scalars(importer, kind, branches, a, b)
    raise importer.builder.unsupported(
        "a value that is of one kind in a branch and of another in the other"
    )


def _kept(importer: Importer, branch: list[Statement], value: object) -> object:
    """Return a value of a branch in variables that are seen after it."""
    if isinstance(value, ListValue):
        return ListValue([_kept(importer, branch, item) for item in value.items], importer.scope)
    if isinstance(value, tuple):
        return tuple(_kept(importer, branch, item) for item in value)
    if isinstance(value, DictValue):
        return DictValue({k: _kept(importer, branch, v) for k, v in value.items()}, importer.scope)
    if isinstance(value, Optional):
        with importer.builder.inside(branch):
            given = Scalar("bool", value.flag)
        kept = _variable(importer, branch, "bool", given)
        return Optional(kept.text, _kept(importer, branch, value.value))
    if isinstance(value, View) and value.storage.kind == "pointer":
        name = importer.builder.fresh(value.storage.name)
        storage = Storage(name, value.dtype, value.storage.count, "pointer")
        importer.builder.add(Declare(name, "pointer", value.dtype, storage))
        whole = View(value.storage, 0, (value.storage.count,), (1,))
        with importer.builder.inside(branch):
            importer.builder.add(Assign(name, "pointer", whole, storage))
        return View(storage, value.offset, value.shape, value.strides)
    kind = kind_of(value)
    if kind is None or isinstance(value, bool | int | float):
        return value
    return _variable(importer, branch, kind, value)


def _variable(importer: Importer, branch: list[Statement], kind: str, value: object) -> Any:
    """Return a variable that a branch sets."""
    name, read = importer.declare(kind)
    with importer.builder.inside(branch):
        importer.builder.add(Assign(name, kind, value))  # type: ignore[arg-type]
    return read


def _merge_optionals(
    importer: Importer, condition: Scalar, branches: list[list[Statement]], a: object, b: object
) -> object:
    flags = [v.flag if isinstance(v, Optional) else "1" for v in (a, b)]
    values = [v.value if isinstance(v, Optional) else v for v in (a, b)]
    flag = _merge_scalars(importer, "bool", branches, *(Scalar("bool", flag) for flag in flags))
    return Optional(flag.text, _merge(importer, condition, branches, *values))


def _merge_scalars(
    importer: Importer, kind: str, branches: list[list[Statement]], a: object, b: object
) -> Any:
    name, read = importer.declare(kind)
    for branch, value in zip(branches, (a, b), strict=True):
        with importer.builder.inside(branch):
            importer.builder.add(Assign(name, kind, value))  # type: ignore[arg-type]
    return read


def merge_tensors(
    importer: Importer, branches: list[list[Statement]], a: Tensor, b: Tensor
) -> View:
    """Return a tensor that is `a` after the first branch and `b` after the second."""
    if (
        a.dtype != b.dtype
        or len(a.shape) != len(b.shape)
        or not all(sizes.equal(x, y) is True for x, y in zip(a.shape, b.shape, strict=True))
    ):
        raise importer.builder.unsupported("the branches give tensors of different dtype or shape")
    places = []
    for branch, value in zip(branches, (a, b), strict=True):
        with importer.builder.inside(branch):
            places.append(importer.builder.contiguous(value))
            importer.places.same(value, places[-1])
    name = importer.builder.fresh(importer.builder.hint or "t")
    storage = Storage(name, a.dtype, element_count(a.shape), "pointer")
    importer.builder.add(Declare(name, "pointer", a.dtype, storage))
    for branch, place in zip(branches, places, strict=True):
        with importer.builder.inside(branch):
            importer.builder.add(Assign(name, "pointer", place, storage))
    return View(storage, 0, tuple(a.shape), contiguous_strides(a.shape))

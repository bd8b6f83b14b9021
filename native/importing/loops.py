"""Loops: a short one of known length is written out, another becomes a loop in C."""

from __future__ import annotations

from typing import Any

from torchship.native.importing.graph import debug_name
from torchship.native.importing.growing_lists import become_stack, place_appended
from torchship.native.importing.importer import Importer
from torchship.native.importing.loop_variables import carrier_of, carry, unchanged
from torchship.native.importing.registry import Raised, operator, outcome
from torchship.native.importing.values import ListValue
from torchship.native.ir import sizes
from torchship.native.ir.program import Assign, Declare, Loop, Scalar, Statement, View

UNROLLED = 64
"""A loop of at most so many rounds, whose number is known, is written out."""


@operator("prim::Loop")
def loop(importer: Importer, node: Any, arguments: list[Any]) -> object:
    most, condition, *start = arguments
    (body,) = node.blocks()
    returns = list(body.outputs())
    truth = importer.truth(condition)
    if truth is False:
        return outcome(start)
    if isinstance(most, int) and most <= UNROLLED:
        rounds = _unrolled(importer, body, most, start)
        if rounds is not None:
            return outcome(rounds)
    return outcome(_written_loop(importer, body, returns, most, truth, start))


def _unrolled(importer: Importer, body: Any, most: int, start: list[object]) -> list[object] | None:
    """Run a loop whose rounds are known; None if its end is not known (nothing is kept)."""
    mark, carried, changes = len(importer.builder.block), start, importer.changes
    index, *parameters = list(body.inputs())
    condition, *results = list(body.outputs())
    for count in range(most):
        importer.values[index.unique()] = count
        for parameter, value in zip(parameters, carried, strict=True):
            importer.values[parameter.unique()] = value
        importer.block(body)
        truth = importer.truth(importer.value(condition))
        carried = [importer.value(value) for value in results]
        if truth is False:
            return carried
        if truth is not True:
            if count or changes != importer.changes:
                raise importer.builder.unsupported("a loop whose end is known only in later rounds")
            del importer.builder.block[mark:]
            return None
    return carried


def _written_loop(
    importer: Importer,
    body: Any,
    returns: list[Any],
    most: Any,
    truth: bool | Scalar,
    start: list[object],
) -> list[object]:
    """Write a loop in C: find what its rounds leave alone, and carry the rest in variables."""
    outer_values, where = dict(importer.values), importer.builder.where
    index_value, *parameters = list(body.inputs())
    varying = [False] * len(start)
    templates: list[object] = [None] * len(start)
    while True:
        importer.values = dict(outer_values)
        temporaries = len(importer.builder.temporaries)
        before: list[Statement] = []
        inner: list[Statement] = []
        index = importer.builder.fresh(debug_name(index_value) or "step")
        importer.values[index_value.unique()] = sizes.symbol(index)
        appended: dict[int, tuple[ListValue, View]] = {}
        importer.appended.append(appended)
        with importer.builder.inside(before):
            carriers = [
                carrier_of(importer, debug_name(parameter), value, template) if varies else value
                for parameter, value, varies, template in zip(
                    parameters, start, varying, templates, strict=True
                )
            ]
        for parameter, carrier in zip(parameters, carriers, strict=True):
            importer.values[parameter.unique()] = carrier
        with importer.builder.inside(inner), importer.inside_scope("loop"):
            importer.loops[sizes.symbol(index)] = most
            try:
                importer.block(body)
            except Raised:
                raise importer.builder.unsupported(
                    "a loop that raises in its first round"
                ) from None
            finally:
                del importer.loops[sizes.symbol(index)]
            goes_on = importer.truth(importer.value(returns[0]))
            results = [importer.value(value) for value in returns[1:]]
        importer.appended.pop()
        changed = [
            not varies and not unchanged(carrier, result)
            for carrier, result, varies in zip(carriers, results, varying, strict=True)
        ]
        if not any(changed):
            break
        templates = [r if c else t for r, c, t in zip(results, changed, templates, strict=True)]
        varying = [a or b for a, b in zip(varying, changed, strict=True)]
        del importer.builder.temporaries[temporaries:]
        for listed, _ in appended.values():
            listed.items.clear()
    for statement in before:
        importer.builder.add(statement)
    flag = ""
    with importer.builder.inside(inner):
        carry(importer, carriers, results, varying)
        if truth is not True or goes_on is not True:
            flag = importer.builder.fresh("more")
            importer.builder.add(Assign(flag, "bool", goes_on))
    if flag:
        importer.builder.add(Declare(flag, "bool"))
        importer.builder.add(Assign(flag, "bool", truth))
    count = most if not (isinstance(most, int) and most >= 2**63 - 1) else 2**63 - 1
    place_appended(importer, appended, sizes.symbol(index), count, inner, bool(flag))
    importer.builder.add(Loop(index, count, inner, flag, where=where, note="prim::Loop"))
    for listed, view in appended.values():
        become_stack(listed, view)
    return [c for c in carriers]

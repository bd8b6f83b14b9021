"""The variables in C that carry the values of a loop from one round to the next."""

from __future__ import annotations

from torchship.native.importing.importer import Importer
from torchship.native.importing.values import (
    UNINITIALISED,
    Concat,
    ListValue,
    OneHot,
    Optional,
    is_plain,
    is_size,
    is_tensor,
    kind_of,
)
from torchship.native.ir import sizes
from torchship.native.ir.program import Assign, Define, Scalar, View


def carrier_of(importer: Importer, name: str, value: object, template: object = None) -> object:
    """Return a variable that holds a value of the loop, and starts with the one before it.

    A value that is None at first is held by variables like those of `template`, a later one.
    """
    importer.builder.hint = name
    if value is UNINITIALISED and template is not None:
        return _like(importer, name, template)
    if value is None and template is not None:
        inner = template.value if isinstance(template, Optional) else template
        flag = carrier_of(importer, f"{name}_given", False)
        assert isinstance(flag, Scalar)
        return Optional(flag.text, _like(importer, name, inner))
    if is_tensor(value):
        out = importer.builder.temporary(value.dtype, value.shape)  # type: ignore[attr-defined]
        importer.builder.copy(value, out)  # type: ignore[arg-type]
        importer.places.same(value, out)
        return out
    if isinstance(value, ListValue):
        return ListValue([carrier_of(importer, name, item) for item in value.items], importer.scope)
    if isinstance(value, tuple):
        return tuple(carrier_of(importer, name, item) for item in value)
    if (kind := kind_of(value)) is not None:
        variable, read = importer.declare(kind)
        importer.builder.add(Assign(variable, kind, value))  # type: ignore[arg-type]
        return read
    raise importer.builder.unsupported(
        f"a loop that changes a value of type {type(value).__name__}"
    )


def _like(importer: Importer, name: str, value: object) -> object:
    """Return variables for a value of the same kind and shape, without a value yet."""
    importer.builder.hint = name
    if is_tensor(value):
        return importer.builder.temporary(value.dtype, value.shape)  # type: ignore[attr-defined]
    if isinstance(value, ListValue):
        return ListValue([_like(importer, name, item) for item in value.items], importer.scope)
    if isinstance(value, tuple):
        return tuple(_like(importer, name, item) for item in value)
    if (kind := kind_of(value)) is not None:
        _, read = importer.declare(kind)
        return read
    return carrier_of(importer, name, value)


def unchanged(before: object, after: object) -> bool:
    if before is after:
        return True
    if isinstance(before, View) and isinstance(after, View):
        return before.same_elements(after)
    if isinstance(before, ListValue) and isinstance(after, ListValue):
        return len(before.items) == len(after.items) and all(
            unchanged(a, b) for a, b in zip(before.items, after.items, strict=True)
        )
    if isinstance(before, tuple) and isinstance(after, tuple):
        return len(before) == len(after) and all(map(unchanged, before, after))
    if isinstance(before, Optional) and isinstance(after, Optional):
        return before.flag == after.flag and unchanged(before.value, after.value)
    if is_size(before) and is_size(after):
        return sizes.equal(before, after) is True
    return type(before) is type(after) and is_plain(before) and before == after


def carry(
    importer: Importer, carriers: list[object], results: list[object], varying: list[bool]
) -> None:
    """Store the results of a round in the variables of the next, all at once."""
    moves: list[tuple[object, object]] = []
    for carrier, result, varies in zip(carriers, results, varying, strict=True):
        if varies and result is not UNINITIALISED:
            _pair(importer, carrier, result, moves)
    targets = {id(c.storage) for c, _ in moves if isinstance(c, View)}
    ready: list[tuple[object, object]] = []
    for carrier, result in moves:
        if isinstance(result, OneHot | Concat):
            result = importer.builder.materialise(result)
        if isinstance(result, View) and id(result.storage) in targets:
            if not (isinstance(carrier, View) and result.same_elements(carrier)):
                moved = importer.builder.temporary(result.dtype, result.shape)
                importer.builder.copy(result, moved)
                result = moved
        elif not is_tensor(result):
            variable = importer.builder.fresh("next")
            kind = kind_of(carrier)
            importer.builder.add(Define(variable, kind, result))  # type: ignore[arg-type]
            result = sizes.symbol(variable, None) if kind == "int" else Scalar(kind, variable)  # type: ignore[arg-type]
        ready.append((carrier, result))
    for carrier, result in moves:
        importer.places.same(carrier, result, carried=True)
    for carrier, result in ready:
        if isinstance(carrier, View):
            if not (isinstance(result, View) and result.same_elements(carrier)):
                importer.builder.copy(result, carrier)  # type: ignore[arg-type]
        else:
            name = carrier.text if isinstance(carrier, Scalar) else str(carrier)
            importer.builder.add(Assign(name, kind_of(carrier), result))  # type: ignore[arg-type]


def _pair(
    importer: Importer, carrier: object, result: object, moves: list[tuple[object, object]]
) -> None:
    if isinstance(carrier, ListValue) and isinstance(result, ListValue):
        if len(carrier.items) != len(result.items):
            raise importer.builder.unsupported("a list that grows in a loop and is used in it")
        for a, b in zip(carrier.items, result.items, strict=True):
            _pair(importer, a, b, moves)
    elif isinstance(carrier, tuple) and isinstance(result, tuple):
        for a, b in zip(carrier, result, strict=True):
            _pair(importer, a, b, moves)
    elif isinstance(carrier, Optional):
        given: object = (
            Scalar("bool", result.flag) if isinstance(result, Optional) else result is not None
        )
        moves.append((Scalar("bool", carrier.flag), given))
        if result is not None:
            _pair(
                importer,
                carrier.value,
                result.value if isinstance(result, Optional) else result,
                moves,
            )
    elif isinstance(carrier, View) and is_tensor(result):
        if result.dtype != carrier.dtype or tuple(result.shape) != tuple(carrier.shape):  # type: ignore[attr-defined]
            raise importer.builder.unsupported(
                f"a tensor that changes its dtype or shape in a loop: {carrier.dtype}"
                f"{list(carrier.shape)} becomes {result.dtype}{list(result.shape)}"  # type: ignore[attr-defined]
            )
        moves.append((carrier, result))
    elif kind_of(carrier) is not None and kind_of(carrier) == kind_of(result):
        moves.append((carrier, result))
    else:
        raise importer.builder.unsupported("a value that changes its type in a loop")

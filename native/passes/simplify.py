"""Fewer statements and copies: results go where they are needed, sums start where they can."""

from __future__ import annotations

from collections.abc import Callable

from torchship.native.ir import sizes
from torchship.native.ir.layout import as_matrix, dense_order
from torchship.native.ir.program import (
    Assign,
    Call,
    Define,
    Elementwise,
    Method,
    Statement,
    Storage,
    View,
    walk,
)
from torchship.native.ir.weights import Weights, weight_value
from torchship.native.passes.uses import (
    Aliases,
    blocks_of,
    overlap,
    reads,
    sets,
    variables_of,
    writes,
)

SUMS = {"linear", "conv", "depthwise", "gather_sum", "gather_conv"}
"""Kernels whose last input may be where their sums start."""
CHECKING = {"embedding", "classes"}
"""Kernels that refuse wrong indices."""
WITH_RELU = {"linear", "conv", "depthwise", "gather_sum", "gather_conv"}


def simplify(method: Method, weights: Weights) -> None:
    """Apply all passes of this module."""
    drop_unread(method)
    start_sums(method, weights)
    absorb_relu(method)
    forward_copies(method)
    drop_unread(method)


def drop_unread(method: Method) -> None:
    """Drop statements whose results nobody reads, until there is none."""
    while True:
        read = {view.storage for s in walk(method.statements) for view in s.reads()}
        dropped = False
        for block in blocks_of(method.statements):
            kept = [s for s in block if not _useless(s, read)]
            dropped |= len(kept) != len(block)
            block[:] = kept
        if not dropped:
            return


def _useless(statement: Statement, read: set[Storage]) -> bool:
    if isinstance(statement, Elementwise | Call):
        made = list(statement.writes())
        if isinstance(statement, Call) and statement.kernel in CHECKING:
            return False
        return all(view.storage.kind == "temporary" and view.storage not in read for view in made)
    if isinstance(statement, Assign) and statement.storage is not None:
        return statement.storage not in read
    return False


def users(method: Method, storage: Storage) -> list[Statement]:
    """Return the statements that read or write a storage themselves."""
    return [
        s
        for s in walk(method.statements)
        if any(v.storage is storage for v in (*s.reads(), *s.writes()))
    ]


# --- sums ---


def start_sums(method: Method, weights: Weights) -> None:
    """Turn x + (h @ w) into a sum that starts with x, and join constant biases of the two."""
    for block in blocks_of(method.statements):
        for statement in list(block):
            if isinstance(statement, Elementwise) and statement.operation == "add":
                _start_sum(method, weights, block, statement)


def _start_sum(method: Method, weights: Weights, block: list[Statement], add: Elementwise) -> None:
    operands = add.operands
    if len(operands) != 2 or not all(isinstance(operand, View) for operand in operands):
        return
    for which in (1, 0):
        product, other = operands[which], operands[1 - which]
        assert isinstance(product, View) and isinstance(other, View)
        found = _only_sum(method, block, product, add)
        if (
            found is None
            or _flat(other) is None
            or add.out.dtype != "float32"
            or other.dtype != "float32"
        ):
            continue
        rows, start = _flat(add.out), _flat(other)
        if rows is None or start is None or rows.shape[1] != found.outputs[0].shape[1]:
            continue
        at = block.index(add)
        aliases = Aliases(method.statements)
        if any(_disturbs(s, found, aliases) for s in block[block.index(found) + 1 : at]):
            continue
        bias = _bias_of(found)
        if bias is not None and not _join_bias(method, weights, other, add, bias):
            continue
        block.remove(found)
        data = found.inputs[:2]
        block[block.index(add)] = Call(
            found.kernel, (rows,), (*data, start), found.attributes | {"start": True},
            where=found.where, note=found.note,
        )  # fmt: skip
        return


def _disturbs(statement: Statement, call: Call, aliases: Aliases) -> bool:
    """Whether a statement between a product and the sum it goes into forbids to delay it."""
    return any(
        overlap(view, written, aliases) for view in call.inputs for written in writes(statement)
    )


def _only_sum(
    method: Method, block: list[Statement], view: View, reader: Elementwise
) -> Call | None:
    """Return the linear map that alone makes what `reader` alone reads, in the same block."""
    if view.storage.kind != "temporary":
        return None
    found = users(method, view.storage)
    makers = [s for s in found if s is not reader]
    if len(makers) != 1 or makers[0] not in block or not isinstance(makers[0], Call):
        return None
    call = makers[0]
    if call.kernel != "linear" or call.attributes["relu"]:
        return None
    if not _is_whole(view):
        return None
    rows, made = _flat(view), call.outputs[0]
    return call if rows is not None and rows.same_elements(made) else None


def _flat(view: View) -> View | None:
    """Return [..., n] as [rows, n] if the last axis is contiguous and the rows have one stride."""
    if view.strides[-1] != 1:
        return None
    return as_matrix(view)


def _bias_of(call: Call) -> View | None:
    return call.inputs[2] if call.attributes["start"] else None


def _join_bias(method: Method, weights: Weights, other: View, add: Elementwise, bias: View) -> bool:
    """Add a constant bias to the one of the sum that makes `other`, if only `add` reads that."""
    if other.storage.kind != "temporary" or bias.storage.kind != "weight":
        return False
    makers = [s for s in users(method, other.storage) if s is not add]
    firsts = [
        s for s in makers
        if isinstance(s, Call) and s.kernel in SUMS and s.attributes["start"]
        and s.inputs[2].storage.kind == "weight" and not s.attributes.get("relu")
    ]  # fmt: skip
    if len(makers) != 1 or len(firsts) != 1:
        return False
    first = firsts[0]
    known = first.inputs[2]
    if (
        tuple(known.shape[-1:]) != tuple(bias.shape[-1:])
        or len(known.shape) != 1
        or len(bias.shape) != 1
    ):
        return False
    joined = (weight_value(known).double() + weight_value(bias).double()).float()
    name = f"{known.storage.name}_and_{bias.storage.name}"
    first.inputs = (*first.inputs[:2], weights.add(name, joined))
    return True


# --- activations ---


def absorb_relu(method: Method) -> None:
    """Let a product apply the ReLU that follows it."""
    for block in blocks_of(method.statements):
        for statement in list(block):
            if not isinstance(statement, Elementwise) or statement.operation != "relu":
                continue
            (operand,) = statement.operands
            if not isinstance(operand, View) or operand.storage.kind != "temporary":
                continue
            others = [s for s in users(method, operand.storage) if s is not statement]
            last = others[-1] if others else None
            if last not in block or not isinstance(last, Call) or last.kernel not in WITH_RELU:
                continue
            calls = [s for s in others if isinstance(s, Call)]
            if len(calls) != len(others) or not all(
                s in block and s.outputs[0].storage is operand.storage for s in calls
            ):
                continue
            if any(
                v.storage is operand.storage
                for s in calls[:-1]
                for v in s.reads()
                if s.attributes.get("relu")
            ):
                continue
            whole = last.outputs[0]
            if sizes.simple(sizes.product(whole.shape) - operand.storage.count) != 0:
                continue
            if not _is_whole(operand) or not _is_whole(statement.out):
                continue
            if not _same_layout(operand, statement.out):
                continue
            last.attributes = last.attributes | {"relu": True}
            _rename(method, operand.storage, statement.out.storage, statement.out.offset)
            block.remove(statement)


def _is_whole(view: View) -> bool:
    """Whether a view has every element of its storage once."""
    return (
        sizes.simple(view.offset) == 0
        and sizes.simple(sizes.product(view.shape) - view.storage.count) == 0
        and dense_order(view) is not None
    )


def _same_layout(a: View, b: View) -> bool:
    return all(
        size == 1 or sizes.simple(x - y) == 0
        for size, x, y in zip(a.shape, a.strides, b.strides, strict=True)
    )


# --- copies ---


def forward_copies(method: Method) -> None:
    """Compute a tensor where it is copied to, if nothing else happens there meanwhile."""
    changed = True
    while changed:
        changed = False
        aliases = Aliases(method.statements)
        for block in blocks_of(method.statements):
            for statement in list(block):
                if (
                    isinstance(statement, Elementwise)
                    and statement.operation == "copy"
                    and _forward(method, block, statement, aliases)
                ):
                    aliases = Aliases(method.statements)
                    changed = True


def _forward(method: Method, block: list[Statement], copy: Elementwise, aliases: Aliases) -> bool:
    (source,) = copy.operands
    place = copy.out
    if not isinstance(source, View) or source.storage.kind != "temporary":
        return False
    storage = source.storage
    if storage is place.storage or storage.dtype != place.dtype or source.dtype != storage.dtype:
        return False
    if not _is_whole(source) or not _same_layout(source, place):
        return False
    if any(
        storage in aliases.of(s.storage)
        for s in walk(method.statements)
        if isinstance(s, Assign) and s.storage is not None
    ):
        return False
    top = [s for s in block if any(v.storage is storage for v in (*reads(s), *writes(s)))]
    everywhere = users(method, storage)
    inside = [inner for s in top for inner in walk([s]) if inner in everywhere]
    if len(inside) != len(everywhere) or not any(v.storage is storage for v in writes(top[0])):
        return False
    at, last = block.index(copy), block.index(top[-1])
    first = block.index(top[0])
    needed = variables_of(place)
    if any(not needed.isdisjoint(sets(s)) for s in block[first:at]):
        return False
    for number in range(first, max(at, last) + 1):
        between = block[number]
        if between is copy:
            continue
        touching = [*writes(between)] if number > at else [*reads(between), *writes(between)]
        if number > at and any(view.storage is storage for view in touching):
            return False
        for view in touching:
            if view.storage is storage or not overlap(view, place, aliases):
                continue
            if number == first and isinstance(between, Elementwise) and view.same_elements(place):
                continue  # it reads an element before it writes the same one
            return False
    block.remove(copy)
    _rename(method, storage, place.storage, place.offset)
    return True


def _rename(method: Method, old: Storage, new: Storage, offset: sizes.Size) -> None:
    """Let all views of a storage be views of another, which begins at an offset."""

    def moved(view: View) -> View:
        if view.storage is not old:
            return view
        return View(new, sizes.simple(view.offset + offset), view.shape, view.strides)

    change_views(method.statements, moved)


def change_views(statements: list[Statement], change: Callable[[View], View]) -> None:
    """Replace every view in statements."""
    for statement in walk(statements):
        if isinstance(statement, Elementwise):
            statement.out = change(statement.out)
            statement.operands = tuple(
                change(o) if isinstance(o, View) else o for o in statement.operands
            )
        elif isinstance(statement, Call):
            statement.outputs = tuple(map(change, statement.outputs))
            statement.inputs = tuple(map(change, statement.inputs))
        elif isinstance(statement, Define | Assign) and isinstance(statement.value, View):
            statement.value = change(statement.value)

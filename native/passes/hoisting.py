"""Takes matrix products out of the steps of loops that do not depend on what the loop computes.

A recurrent cell that is written as a step multiplies the input of each step by the same weights. Of
a small batch that is bound by reading the weights, so the products of `AHEAD` steps are computed at
once, as the rows of one product: a row's sum has one order, so its bits stay the same. A larger
batch has rows enough in each step, and its results stay in the cache between two statements.
"""

from __future__ import annotations

from dataclasses import dataclass

from torchship.native.ir import sizes
from torchship.native.ir.program import (
    Call,
    Define,
    If,
    Loop,
    Method,
    Raise,
    Scalar,
    Statement,
    Storage,
    View,
    walk,
)
from torchship.native.ir.sizes import Size
from torchship.native.passes.simplify import CHECKING, change_views, users
from torchship.native.passes.uses import Aliases, blocks_of, sets, variables_of, writes

AHEAD = 32
"""How many steps are computed at once."""
MANY = 8
"""As many rows in one step are not computed ahead."""


@dataclass(frozen=True)
class _Product:
    call: Call
    rows: Size
    stride: Size  # from the operand's rows at one step to those at the next


def hoist(method: Method) -> None:
    """Compute products once that are the same in every round of a loop, and others ahead."""
    for block in blocks_of(method.statements):
        for loop in [statement for statement in block if isinstance(statement, Loop)]:
            if any(_may_end(statement) for statement in walk(loop.body)):
                continue
            aliases = Aliases(method.statements)
            products = [p for s in loop.body if (p := _product(method, loop, s, aliases))]
            for product in products:
                loop.body.remove(product.call)
            ahead = [p for p in products if sizes.equal(p.stride, 0) is not True]
            for rows in dict.fromkeys(p.rows for p in ahead):
                _compute_ahead(method, loop, rows, [p for p in ahead if p.rows == rows])
            same: list[Statement] = [p.call for p in products if p not in ahead]
            if same:
                loop.body.insert(0, If(Scalar("bool", f"{loop.index} == 0"), same, []))


def _may_end(statement: Statement) -> bool:
    """Whether the method may end here, so that what later rounds read may not be there."""
    return isinstance(statement, Raise) or (
        isinstance(statement, Call) and statement.kernel in CHECKING
    )


def _product(method: Method, loop: Loop, statement: Statement, aliases: Aliases) -> _Product | None:
    """Return a product of a loop's body if it can move to an earlier round."""
    if not isinstance(statement, Call) or statement.kernel != "linear":
        return None
    (out,), (x, *constants) = statement.outputs, statement.inputs
    written = set().union(*(aliases.of(view.storage) for view in writes(loop)))
    if not aliases.of(x.storage).isdisjoint(written) or x.storage.kind == "pointer":
        return None
    if any(view.storage.kind != "weight" for view in constants):
        return None
    if (sets(loop) | _indices(loop)) & (variables_of(x) | variables_of(out)) - {loop.index}:
        return None
    index = sizes.symbol(loop.index)
    if any(index in sizes.symbols_of(size) for size in (*x.shape, *x.strides)):
        return None
    following = sizes.simple_expr(x.offset).xreplace({index: index + 1})
    stride = sizes.simple(following - x.offset)
    if index in sizes.symbols_of(stride) or not _is_own(method, loop, statement, out):
        return None
    many = isinstance(out.shape[0], int) and out.shape[0] >= MANY
    if sizes.equal(stride, 0) is not True and (many or loop.condition):
        return None
    return _Product(statement, out.shape[0], stride)


def _indices(loop: Loop) -> set[str]:
    return {s.index for s in walk([loop]) if isinstance(s, Loop)}


def _is_own(method: Method, loop: Loop, call: Call, out: View) -> bool:
    """Whether a whole temporary is made by one call of a loop, and used there alone, later."""
    if out.storage.kind != "temporary" or sizes.simple(out.offset) != 0:
        return False
    rows, n = out.shape
    if sizes.simple(rows * n - out.storage.count) != 0 or sizes.simple(out.strides[0] - n) != 0:
        return False
    inside = list(walk(loop.body))
    found = users(method, out.storage)
    return (
        found[0] is call
        and all(any(s is user for s in inside) for user in found)
        and not any(v.storage is out.storage for s in found[1:] for v in s.writes())
    )


def _compute_ahead(method: Method, loop: Loop, rows: Size, products: list[_Product]) -> None:
    index = sizes.symbol(loop.index)
    taken = _names(method)
    slot, row = _fresh(f"{loop.index}_slot", taken), _fresh(f"{loop.index}_row", taken)
    few: list[Statement] = []
    many: list[Statement] = []
    for product in products:
        call = product.call
        (out,), (x, *constants) = call.outputs, call.inputs
        n = out.shape[1]
        steps = AHEAD if isinstance(rows, int) else 1
        count = rows * steps if steps > 1 else rows + sizes.smaller(rows, MANY - 1) * (AHEAD - 1)
        made = Storage(
            _fresh(f"{out.storage.name}_ahead", taken),
            out.storage.dtype,
            sizes.simple(count * n),
            "temporary",
        )
        at = sizes.symbol(row)
        left = sizes.smaller(AHEAD, sizes.simple(loop.count - index))
        target = View(made, sizes.simple(at * n), (left, n), (sizes.simple(rows * n), 1))
        source = View(
            x.storage,
            sizes.simple(x.offset + at * x.strides[0]),
            (left, x.shape[1]),
            (product.stride, 1),
        )
        arguments = {"where": call.where, "note": call.note}
        few.append(Call("linear", (target,), (source, *constants), call.attributes, **arguments))
        whole = View(made, 0, (rows, n), (n, 1))
        many.append(Call("linear", (whole,), call.inputs, call.attributes, **arguments))
        _redirect(loop, out.storage, made, sizes.simple(sizes.symbol(slot) * rows * n))
    ahead: Statement = If(Scalar("bool", f"{slot} == 0"), [Loop(row, rows, few)], [])
    number = f"{loop.index} % {AHEAD}"
    if not isinstance(rows, int):
        enough = f"{sizes.c_text(rows)} < {MANY}"
        number = f"{enough} ? {number} : 0"
        ahead = If(Scalar("bool", enough), [ahead], many)
    loop.body[:0] = [Define(slot, "int", Scalar("int", number)), ahead]


def _redirect(loop: Loop, old: Storage, new: Storage, offset: Size) -> None:
    def moved(view: View) -> View:
        if view.storage is not old:
            return view
        return View(new, sizes.simple(view.offset + offset), view.shape, view.strides)

    change_views(loop.body, moved)


def _names(method: Method) -> set[str]:
    found = {v.storage.name for s in walk(method.statements) for v in (*s.reads(), *s.writes())}
    for statement in walk(method.statements):
        found |= sets(statement) | ({statement.index} if isinstance(statement, Loop) else set())
    return found


def _fresh(wish: str, taken: set[str]) -> str:
    name, number = wish, 2
    while name in taken:
        name, number = f"{wish}_{number}", number + 1
    taken.add(name)
    return name

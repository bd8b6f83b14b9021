"""Decides when a loop's matrix products are computed that do not depend on what the loop computes.

A recurrent cell multiplies the input of each step by the same weights. Of a small batch that is
bound by reading the weights, so the products of `AHEAD` steps are computed at once, as the rows of
one product: a row's sum has one order, so its bits stay the same. A larger batch has rows enough in
each step, and its results stay in the cache between two statements. Both hold for products that
the model makes in each step, and for those that it makes of all steps before the loop.
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
            for statement in block[: block.index(loop)]:
                if isinstance(statement, Call) and statement.kernel == "linear":
                    _sink(method, block, loop, statement)
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


def _sink(method: Method, block: list[Statement], loop: Loop, call: Call) -> None:
    """Move a product of all steps, of which each round of a loop reads its own, into the loop."""
    (out,), (x, *constants) = call.outputs, call.inputs
    all_rows, n = out.shape
    rows = sizes.floor_div(all_rows, loop.count) if sizes.equal(loop.count, 0) is not True else 0
    if (
        loop.condition
        or not _is_whole_temporary(out)
        or sizes.equal(rows * loop.count, all_rows) is not True
        or any(view.storage.kind != "weight" for view in constants)
        or any(s is not call and s not in loop.body for s in users(method, out.storage))
        or any(view.storage is out.storage for view in writes(loop))
    ):
        return
    aliases = Aliases(method.statements)
    later = block[block.index(call) + 1 : block.index(loop) + 1]
    written = set().union(*(aliases.of(v.storage) for s in later for v in writes(s)))
    if x.storage.kind == "pointer" or not aliases.of(x.storage).isdisjoint(written):
        return
    if any(not variables_of(x).isdisjoint(sets(s)) for s in later):
        return
    reads = [v for s in loop.body for v in s.reads() if v.storage is out.storage]
    index = sizes.symbol(loop.index)
    for step in (index, sizes.simple(loop.count - 1 - index)):
        begin = sizes.simple(step * rows * n)
        if not all(_is_of_step(view, begin, rows, n) for view in reads):
            continue
        made = Storage(out.storage.name, out.storage.dtype, sizes.simple(rows * n), "temporary")
        source = View(
            x.storage,
            sizes.simple(x.offset + step * rows * x.strides[0]),
            (rows, x.shape[1]),
            x.strides,
        )
        target = View(made, 0, (rows, n), (n, 1))
        _redirect(loop, out.storage, made, sizes.simple(-begin))
        block.remove(call)
        call.outputs, call.inputs = (target,), (source, *constants)
        loop.body.insert(0, call)
        return


def _is_of_step(view: View, begin: Size, rows: Size, n: Size) -> bool:
    """Whether a view has columns of the rows [rows, n] that begin at an offset."""
    column = sizes.simple(view.offset - begin)
    return (
        len(view.shape) == 2
        and isinstance(column, int)
        and isinstance(view.shape[1], int)
        and column >= 0
        and column + view.shape[1] <= n
        and sizes.equal(view.shape[0], rows) is True
        and (view.shape[0] == 1 or sizes.equal(view.strides[0], n) is True)
        and view.strides[1] == 1
    )


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
    if not _is_whole_temporary(out):
        return False
    inside = list(walk(loop.body))
    found = users(method, out.storage)
    return (
        found[0] is call
        and all(any(s is user for s in inside) for user in found)
        and not any(v.storage is out.storage for s in found[1:] for v in s.writes())
    )


def _is_whole_temporary(out: View) -> bool:
    if out.storage.kind != "temporary" or sizes.simple(out.offset) != 0:
        return False
    rows, n = out.shape
    return bool(
        sizes.simple(rows * n - out.storage.count) == 0 and sizes.simple(out.strides[0] - n) == 0
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

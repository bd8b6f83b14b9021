"""Lists that grow by one tensor in each round of a loop: they become one tensor with all steps."""

from __future__ import annotations

import sympy

from torchship.native.importing.importer import Importer
from torchship.native.importing.values import ListValue, StackedList, is_tensor, stack_of
from torchship.native.ir import sizes
from torchship.native.ir.layout import select
from torchship.native.ir.program import Elementwise, Statement, View
from torchship.native.ir.sizes import Size


def append(importer: Importer, listed: object, item: object) -> None:
    """Append an item to a list."""
    if isinstance(listed, ListValue) and listed.home == importer.scope and stack_of(listed) is None:
        listed.items.append(item)
        importer.changes += 1
        return
    if (
        not isinstance(listed, ListValue)
        or listed.items
        or not is_tensor(item)
        or not importer.appended
    ):
        raise importer.builder.unsupported(
            "a list that grows in a loop or branch in a way that has no C yet"
        )
    if id(listed) in importer.appended[-1] or importer.scopes[-1][1] != "loop":
        raise importer.builder.unsupported(
            "a list that grows more than once in a round of a loop, or in a branch"
        )
    view = importer.builder.materialise(item)  # type: ignore[arg-type]
    # A copy of its own, whose place in the stack is known when the loop is complete.
    mine = View(view.storage, view.offset, view.shape, view.strides)
    marker = Elementwise(mine, "copy", (mine,), compute=view.dtype)
    importer.builder.add(marker)
    importer.appended[-1][id(listed)] = (listed, mine)
    importer.changes += 1


def place_appended(
    importer: Importer,
    appended: dict[int, tuple[ListValue, View]],
    index: sympy.Symbol,
    count: Size,
    inner: list[Statement],
    ends_early: bool,
) -> None:
    """Let the markers of `append` store into the stacks, which lie outside of the loop."""
    for key, (listed, item) in appended.items():
        if ends_early or (isinstance(count, int) and count >= 2**63 - 1):
            raise importer.builder.unsupported("a list that grows in a loop of unknown length")
        importer.builder.hint = "steps"
        longest = count if sizes.less(count, 0) is False else sizes.larger(count, 0)
        stacked = importer.builder.temporary(item.dtype, (longest, *item.shape))
        for statement in inner:
            if isinstance(statement, Elementwise) and statement.out is item:
                statement.out = select(stacked, 0, index)
                importer.places.same(item, stacked, at=importer.builder.order[statement])
        appended[key] = (listed, stacked)


def become_stack(listed: ListValue, stacked: View) -> None:
    listed.items = [StackedList(stacked, stacked.shape[0])]

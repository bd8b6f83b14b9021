"""Nested values to flat leaves and back, for any structure."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import zoo
from torchship.script.exporting.eager import same
from torchship.script.format.nodes import (
    DictNode,
    ListNode,
    Node,
    NoneNode,
    OptionalNode,
    ScalarNode,
    TensorNode,
    TupleNode,
    leaves,
)
from torchship.script.format.tree import build, bytes_to_tensor, flatten, matches

Pair = tuple[Node, object]

names = st.text("abcxyz_0", min_size=1, max_size=4)


@st.composite
def leaf(draw: st.DrawFn, name: str) -> Pair:
    kind = draw(st.sampled_from(["tensor", "int", "float", "bool", "str"]))
    if kind == "tensor":
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        node = TensorNode(name=name, dtype="float32", shape=tuple(shape))
        return node, zoo.noise(draw(st.integers(0, 99)), *shape)
    value = {
        "int": st.integers(-(2**63), 2**63 - 1),
        "float": st.floats(),
        "bool": st.booleans(),
        "str": st.text(max_size=8),
    }[kind]
    return ScalarNode(kind=kind, name=name), draw(value)  # type: ignore[arg-type]


@st.composite
def values(draw: st.DrawFn, name: str = "x", depth: int = 3) -> Pair:
    """A node and a value that has its structure."""
    kinds = ["leaf", "tuple", "list", "dict", "optional", "none"] if depth else ["leaf"]
    kind = draw(st.sampled_from(kinds))
    if kind == "leaf":
        return draw(leaf(name))
    if kind == "none":
        return NoneNode(), None
    if kind == "optional":
        node, value = draw(values(name, depth - 1))
        # A value without leaves cannot be told from an absent one.
        present = draw(st.booleans()) and bool(flatten(node, value))
        return OptionalNode(item=node), value if present else None
    if kind == "dict":
        keys = draw(st.lists(names, min_size=1, max_size=3, unique=True))
        pairs = [draw(values(f"{name}.{key}", depth - 1)) for key in keys]
        node = DictNode(keys=tuple(keys), items=tuple(node for node, _ in pairs))
        return node, dict(zip(keys, [value for _, value in pairs], strict=True))
    count = draw(st.integers(1, 3))
    pairs = [draw(values(f"{name}.{index}", depth - 1)) for index in range(count)]
    nodes = tuple(node for node, _ in pairs)
    items = [value for _, value in pairs]
    return (
        (TupleNode(items=nodes), tuple(items))
        if kind == "tuple"
        else (
            ListNode(items=nodes),
            items,
        )
    )


@given(values())
def test_any_structure_survives_the_journey(pair: Pair) -> None:
    node, value = pair
    flat = flatten(node, value)
    assert all(isinstance(tensor, torch.Tensor) for tensor in flat.values())
    assert set(flat) <= {leaf.name for leaf in leaves(node)}
    assert same(build(node, flat), value)


@given(values())
def test_a_missing_leaf_is_named(pair: Pair) -> None:
    node, value = pair
    flat = flatten(node, value)
    if not flat or isinstance(node, OptionalNode):
        return
    for name in list(flat):
        rest = {other: tensor for other, tensor in flat.items() if other != name}
        try:
            rebuilt = build(node, rest)
        except KeyError as error:
            assert error.args == (name,)
        else:
            assert not same(rebuilt, value)  # an optional part of which it was the only leaf


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=12))
def test_lists_and_dicts_of_any_length(sizes: list[tuple[int, int]]) -> None:
    tensor = TensorNode(name="x.*.parts.*", dtype="float32", shape=(None, None))
    node = DictNode(element=DictNode(keys=("parts",), items=(ListNode(element=tensor),)))
    value = {
        f"k{number}": {"parts": [zoo.noise(n, *size) for n in range(number % 3 + 1)]}
        for number, size in enumerate(sizes)
    }
    assert same(build(node, flatten(node, value)), dict(sorted(value.items())))


def test_more_than_ten_elements_keep_their_order() -> None:
    node = ListNode(element=ScalarNode(kind="int", name="x.*"))
    value = list(range(100, 125))
    flat = flatten(node, value)
    shuffled = dict(sorted(flat.items()))
    assert build(node, shuffled) == value


def test_a_gap_in_a_list_is_a_missing_leaf() -> None:
    node = ListNode(element=ScalarNode(kind="int", name="x.*"))
    with pytest.raises(KeyError, match=r"x\.1"):
        build(node, {"x.0": torch.tensor(1), "x.2": torch.tensor(3)})


def test_a_star_is_one_part_of_a_name() -> None:
    assert matches("x.*", "x.10")
    assert matches("x.*.h", "x.key.h")
    assert not matches("x.*", "x.1.h")
    assert not matches("x.*", "y.1")
    assert not matches("x.1", "x.1.h")


def test_named_tuples_keep_their_fields() -> None:
    items = tuple(TensorNode(name=f"m.{name}", dtype="float32", shape=(2,)) for name in "hc")
    node = TupleNode(items=items, fields=("h", "c"))
    value = zoo.Memory(zoo.noise(1, 2), zoo.noise(2, 2))
    rebuilt = build(node, flatten(node, value))
    assert torch.equal(rebuilt.h, value.h)  # type: ignore[attr-defined]
    assert torch.equal(rebuilt.c, value.c)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("node", "value"),
    [
        (TensorNode(name="x", dtype="float32", shape=()), 3),
        (ScalarNode(kind="int", name="x"), "3"),
        (ScalarNode(kind="str", name="x"), 3),
        (TupleNode(items=(NoneNode(),)), (None, None)),
        (TupleNode(items=(NoneNode(),)), None),
        (NoneNode(), 3),
        (DictNode(keys=("a",), items=(NoneNode(),)), {"b": None}),
        (DictNode(keys=("a",), items=(NoneNode(),)), [None]),
    ],
)
def test_another_structure_is_refused(node: Node, value: object) -> None:
    with pytest.raises(TypeError, match="expected"):
        flatten(node, value)


def test_the_bytes_of_a_text_are_copied_as_one() -> None:
    """One by one they take a hundred times as long, which a server's event loop does not have."""

    class CopiedBytes(bytes):
        def __iter__(self) -> Iterator[int]:
            raise AssertionError("the bytes are read one by one")

    assert bytes_to_tensor(CopiedBytes(b"abc")).tolist() == list(b"abc")

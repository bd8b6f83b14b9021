"""Questions about TorchScript's nodes and blocks."""

from __future__ import annotations

from typing import Any


def writes_in_place(node: Any) -> bool:
    """Whether a node writes to a tensor."""
    kind = node.kind()
    name = kind.partition("::")[2]
    return kind.startswith("aten::") and name.endswith("_") and not name.endswith("__")


def all_nodes(block: Any) -> Any:
    """Yield the nodes of a block, those inside others after them."""
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from all_nodes(inner)


def debug_name(value: Any) -> str:
    """Return the name of a value in the model's source, or "" if it has none."""
    name = value.debugName().split(".")[0]
    return "" if name.isdigit() else name


def named_tensors(graph: Any) -> list[Any]:
    """Return the tensors outside of loops and branches that have a name in the model's source.

    Those that are only weights, or items of a tuple, are left out.
    """
    return [
        value
        for node in graph.nodes()
        if node.kind() not in ("prim::GetAttr", "prim::TupleUnpack", "prim::TupleIndex")
        for value in node.outputs()
        if debug_name(value) and value.type().kind() == "TensorType"
    ]


def source_line(node: Any) -> str:
    """Return `file.py:line` of a node, the file without its folders; "" if it is not known."""
    text = str(node.sourceRange())
    for line in text.splitlines():
        line = line.strip()
        if line.startswith('File "'):
            name, _, rest = line[6:].partition('"')
            number = rest.partition("line ")[2].partition(",")[0]
            return f"{name.rpartition('/')[2]}:{number}" if name else ""
    return ""

"""The operators that have C as a table of Markdown: what docs/native.md shows.

`python -m torchship.native.importing.table docs/native.md` writes the table into the page anew.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from torchship.native.importing import method
from torchship.native.importing.registry import OPERATORS

BEGIN, END = "<!-- operators -->", "<!-- end of operators -->"
TITLES = {
    "arithmetic": "arithmetic, comparisons, logic, bits",
    "functions": "functions of one element",
    "casts": "new tensors and conversions",
    "in_place": "in place",
    "views": "views, joins, splits",
    "reductions": "reductions, normalisations, pooling",
    "products": "products, convolutions, look-ups",
    "recurrent": "recurrence and attention",
    "lists": "lists, tuples, dicts",
    "tensor_facts": "facts about tensors",
    "scalars": "numbers",
    "texts": "texts and errors",
    "constants": "constants and tests",
    "branches": "branches",
    "loops": "loops",
}
"""The rows of the table, by the module of the translations."""

OF_SCRIPTS = {
    *("Int", "IntImplicit", "Float", "FloatImplicit", "Bool", "ScalarImplicit"),
    *("alias", "lift_fresh", "scalar_tensor", "floordiv", "rsub"),
}
"""What TorchScript writes where a model has something else."""


def table() -> str:
    """Return the table: the names of torch, without what TorchScript has for itself."""
    assert method.OPERATOR_MODULES  # they have registered what they translate
    rows: dict[str, list[str]] = {title: [] for title in TITLES.values()}
    for kind, handler in OPERATORS.items():
        namespace, _, name = kind.partition("::")
        name = {"numpy_T": "T"}.get(name, name)
        if namespace == "prim" or name.startswith("_") or name in OF_SCRIPTS:
            continue
        row = TITLES[handler.__module__.rpartition(".")[2]]
        rows[row].append(name if namespace == "aten" else kind)
    lines = [f"| {row} | {_listed(names)} |" for row, names in rows.items() if names]
    return "\n".join(["| kind | operators |", "|---|---|", *lines])


def _listed(names: list[str]) -> str:
    return " ".join(f"`{name}`" for name in sorted(set(names)))


def written_into(page: str) -> str:
    """Return the page with the table between its two marks.

    Raises:
        ValueError: the page does not have them.
    """
    found, count = re.subn(
        f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n{table()}\n{END}", page, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"the page has no {BEGIN} and {END}")
    return found


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.write_text(written_into(place.read_text()))

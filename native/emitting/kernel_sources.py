"""The kernels in C that a generated file needs, from the folder `kernels`."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "kernels"
ALWAYS = ("vector", "scalar")
OPTIONAL = ("elementary", "rows", "gemm", "softmax", "layer_norm")
"""In the order in which they stand on each other."""
_NAME = re.compile(r"\bts_[a-z0-9_]+\b")


@cache
def source(name: str) -> str:
    """Return a file of the folder."""
    return (FOLDER / f"{name}.h").read_text()


def style() -> str:
    """Return the `.clang-format` of the kernels, which is that of all generated C."""
    return (FOLDER / ".clang-format").read_text()


@cache
def defined(name: str) -> frozenset[str]:
    """Return the names that a file defines: all it mentions, but for those of files before it."""
    names = set(_NAME.findall(source(name))) - set(
        _NAME.findall(source("text") + source("integers"))
    )
    for other in (*ALWAYS, *OPTIONAL):
        if other == name:
            break
        names -= defined(other)
    return frozenset(names)


def needed(text: str) -> list[str]:
    """Return the files that a text needs, in order."""
    names = set(_NAME.findall(text))
    chosen: set[str] = set(ALWAYS)
    for name in reversed(OPTIONAL):
        if names & defined(name):
            chosen.add(name)
            names |= set(_NAME.findall(source(name)))
    return [name for name in (*ALWAYS, *OPTIONAL) if name in chosen]

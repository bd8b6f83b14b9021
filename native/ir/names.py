"""Identifiers of the generated C."""

from __future__ import annotations

import re

C_WORDS = {
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum",
    "extern", "float", "for", "goto", "if", "inline", "int", "long", "register", "restrict",
    "return", "short", "signed", "sizeof", "static", "struct", "switch", "typedef", "union",
    "unsigned", "void", "volatile", "while", "class", "new", "delete", "this", "template", "bool",
    "true", "false", "operator", "private", "public", "protected", "virtual", "try", "catch",
    "throw", "namespace", "using", "and", "or", "not", "xor", "asm", "export", "friend", "typeid",
    "typename", "mutable", "explicit", "NULL",
}  # fmt: skip

LOCALS = {
    "w", "in", "out", "first", "rows", "batch", "workspace", "message", "j", "rest", "offsets",
    "segments", "places", "taps", "at", "chosen", "total", "best", "value", "sum", "row", "count",
    "image", "x_", "y", "x", "c", "class", "wrong", "ty", "tx", "ky", "kx",
    "exp", "log", "sin", "cos", "tanh", "erf", "floor", "ceil", "trunc", "rint", "fma", "sqrt",
    "fabs", "memcpy", "main",
} | {f"{letter}{number}" for letter in "ikb" for number in range(10)}  # fmt: skip
"""Names of the generated functions themselves, which no tensor or variable may have."""


def identifier(wish: str, taken: set[str]) -> str:
    """Return a C identifier like `wish` that is not taken, and take it."""
    base = re.sub(r"\W+", "_", wish, flags=re.ASCII).strip("_") or "t"
    if base[0].isdigit():
        base = f"t{base}"
    if base in C_WORDS:
        base += "_"
    name, count = base, 2
    while name in taken:
        name, count = f"{base}_{count}", count + 1
    taken.add(name)
    return name

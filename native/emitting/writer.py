"""Lines of C with indentation, and literals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from torchship.native.emitting.layout import laid_out


class Writer:
    """Collects lines of C."""

    def __init__(self, depth: int = 0) -> None:
        self.lines: list[str] = []
        self._depth = depth

    def line(self, text: str = "") -> None:
        """Append a line; directives of the preprocessor are not indented."""
        self.lines.append(text if text.startswith("#") or not text else "  " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Write `head {`, what is written inside, and `}`; `else` follows the brace before it."""
        if head == "else" and self.lines[-1].strip() == "}":
            self.lines.pop()
            head = "} else"
        self.line(f"{head} {{" if head else "{")
        self._depth += 1
        yield
        self._depth -= 1
        self.line("}")

    @contextmanager
    def indented(self) -> Iterator[None]:
        """Indent what is written inside."""
        self._depth += 1
        yield
        self._depth -= 1

    def text(self) -> str:
        """Return the lines as one text, laid out as clang-format leaves it."""
        return "\n".join(laid_out(self.lines)) + "\n"


def comment_text(text: str) -> str:
    """Return a text for a comment of one line, which it can neither end nor continue."""
    plain = "".join(char if " " <= char <= "~" else "?" for char in text)
    return plain.replace("\\", "/").replace("??", "? ?").replace("*/", "* /").replace("/*", "/ *")


def float_literal(value: float) -> str:
    """Return a float32 as C writes it, exactly."""
    value = float(np.float32(value))
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    text = f"{value:.9g}"
    if float(np.float32(float(f"{value:.7g}"))) == value:
        text = f"{value:.7g}"
    return text + ("f" if any(c in text for c in ".e") else ".0f")


def double_literal(value: float) -> str:
    """Return a float64 as C writes it, exactly."""
    if math.isnan(value):
        return "NAN"
    if math.isinf(value):
        return "INFINITY" if value > 0 else "-INFINITY"
    return repr(float(value))


def integer_literal(value: int) -> str:
    """Return an int64 as C writes it."""
    if value == -(2**63):
        return "INT64_MIN"
    if abs(value) < 2**31:
        return str(value)
    return f"INT64_C({value})" if value > 0 else f"-INT64_C({-value})"


def string_literal(text: str) -> str:
    """Return a text as a string of C; what is not plain ASCII as escapes."""
    pieces, number = [], False
    for byte in text.encode():
        char = chr(byte)
        if char in '"\\':
            pieces.append(f"\\{char}")
        elif 32 <= byte < 127 and char != "?":
            pieces.append(f'" "{char}' if number and char in "0123456789abcdefABCDEF" else char)
        elif char == "?":
            pieces.append("\\?")
        else:
            pieces.append(f"\\{byte:03o}")
            number = False
            continue
        number = False
    return '"' + "".join(pieces) + '"'

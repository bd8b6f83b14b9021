"""The layout of the generated C: what clang-format leaves as it is, with `kernels/.clang-format`.

The same archive gives the same bytes on every machine, so that no formatter can be run. The style
has no limit of columns: clang-format then keeps the line breaks that it finds, and checks where
lines begin. Long lines are broken here, at places where every reader would break them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

WIDTH = 100
_HEADS = ("if (", "else if (", "for (", "while (")
_OPERATORS = (" && ", " || ", " + ")


def laid_out(lines: Sequence[str]) -> Iterator[str]:
    """Yield lines of C as clang-format leaves them; texts of several lines stay as they are."""
    for line in lines:
        if "\n" in line or not line:
            yield line
            continue
        text = line.lstrip(" ")
        indent = " " * (len(line) - len(text))
        if text.startswith("/*") and text.endswith("*/"):
            yield from _comment(indent, text)
            continue
        if text.startswith(("if", "else", "for", "while", "default:", "case ")):
            head, text = _head(text)
            if head:
                yield from _broken(indent, head)
                indent += "  "
        yield from _broken(indent, text)


def _head(text: str) -> tuple[str, str]:
    """Return the head of a statement on one line, and the rest; no head if it is whole."""
    if text.startswith("default: "):
        return "default:", text[9:]
    if text.startswith("else ") and not text.startswith(("else {", "else if")):
        return "else", text[5:]
    if text.startswith(_HEADS) and not text.endswith("{"):
        end = next((at for at, depth, char in _code(text) if depth == 0 and char == ")"), None)
        if end is not None and text[end + 1 :].strip():
            return text[: end + 1], text[end + 2 :]
    return "", text


def _code(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the characters of C outside of texts and comments: place, depth of brackets, itself."""
    depth, at = 0, 0
    while at < len(text):
        char = text[at]
        if text.startswith("/*", at):
            at = text.index("*/", at) + 2
            continue
        if char in "\"'":
            at += 1
            while text[at] != char:
                at += 2 if text[at] == "\\" else 1
            at += 1
            continue
        if char in ")]}":
            depth -= 1
        yield at, depth, char
        if char in "([{":
            depth += 1
        at += 1


def _broken(indent: str, text: str) -> Iterator[str]:
    """Yield a statement on as many lines as it needs."""
    room = WIDTH - len(indent)
    if len(text) <= room or text.startswith("#") or "/*" in text:
        yield indent + text
        return
    characters = list(_code(text))
    equals = next((at for at, depth, c in characters if depth == 0 and c == "="), None)
    if equals is not None and text[equals - 1 : equals + 2] == " = ":
        rest = text[equals + 2 :]
        if equals < room and len(rest) <= room - 4:
            yield indent + text[: equals + 1]
            yield f"{indent}    {rest}"
            return
    places = _places(text, characters)
    begin = 0
    first = True
    while len(text) - begin > (room if first else room - 4):
        width = room if first else room - 4
        fitting = [at for at in places if begin < at <= begin + width]
        later = [at for at in places if at > begin + width]
        if not fitting and not later:
            break
        end = fitting[-1] if fitting else later[0]
        yield f"{indent if first else indent + '    '}{text[begin:end].rstrip()}"
        begin, first = end, False
    yield f"{indent if first else indent + '    '}{text[begin:]}"


def _places(text: str, characters: Sequence[tuple[int, int, str]]) -> list[int]:
    """Return where a statement may be broken: after operators outside of calls, else at commas."""
    outside = 1 if text.startswith(_HEADS) else 0
    operators = [
        at - 1 + len(operator)
        for at, depth, char in characters
        if depth == outside and char in "&|+"
        for operator in _OPERATORS
        if text.startswith(operator, at - 1)
    ]
    commas = [at + 2 for at, depth, c in characters if depth == 1 and text[at : at + 2] == ", "]
    return operators or commas


def _comment(indent: str, text: str) -> Iterator[str]:
    """Yield a comment on as many lines as it needs."""
    line = indent
    for word in text.split(" "):
        if len(line) + len(word) >= WIDTH and line.strip():
            yield line.rstrip()
            line = f"{indent}   "
        line += f"{word} "
    yield line.rstrip()

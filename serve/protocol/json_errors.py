"""Messages for bodies that are not JSON; the usual cause is NaN or an infinity."""

from __future__ import annotations

import re

import orjson

WAYS = 'send it as the string "NaN", "Infinity" or "-Infinity", or the tensor as binary data'

_NO_NUMBER = re.compile(r"[+-]?(nan|inf(inity)?)\b", re.IGNORECASE)
_TOO_LARGE = re.compile(r"[+-]?\d[\d.]*[eE]?[+-]?\d*")


def for_a_number(value: object) -> str:
    """Return a hint how to send NaN and infinities, if a JSON value seems to mean one; else ""."""
    meant = value is None or (isinstance(value, str) and _NO_NUMBER.fullmatch(value.strip()))
    return f"; for a NaN or an infinity {WAYS}" if meant else ""


def not_json(error: orjson.JSONDecodeError) -> str:
    """Return why a body is not JSON; if a number is the cause, with a hint how to send it."""
    start = error.pos - (error.doc[error.pos - 1 : error.pos] in ("-", "+"))
    place = f"line {error.lineno} column {error.colno + start - error.pos}"
    if found := _NO_NUMBER.match(error.doc, start):
        return f"the body is not JSON: JSON has no {found[0]} ({place}): {WAYS}"
    if "infinity" in error.msg and (found := _TOO_LARGE.match(error.doc, start)):
        number = found[0] if len(found[0]) <= 40 else f"{found[0][:40]}..."
        return f"the body is not JSON: {number} is too large for a double ({place}): {WAYS}"
    return f"the body is not JSON: {error}"

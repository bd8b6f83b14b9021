"""Sizes, offsets and indices: integers that are known now, or when the C code runs.

An unknown size is a `sympy` expression over symbols; each symbol is an int64_t variable of the C
code. The canonical form of sympy is what makes two sizes comparable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import sympy

Size: TypeAlias = Any
"""An int, or an expression of sympy, whose own types say too little."""


class FloorDiv(sympy.Function):  # type: ignore[misc]
    """a // b, rounded to minus infinity, as Python has it; b is positive."""

    is_integer = True

    @classmethod
    def eval(cls, a: sympy.Expr, b: sympy.Expr) -> sympy.Expr | None:
        """Return a simpler form, or None if there is none."""
        if a.is_Integer and b.is_Integer and int(b) != 0:
            return sympy.Integer(int(a) // int(b))
        if b == 1:
            return a
        if b == 0 or a.has(FloorDiv, Modulo, sympy.Min, sympy.Max):
            return None
        quotient = sympy.expand(sympy.cancel(a / b))
        terms = [term.as_coeff_Mul() for term in sympy.Add.make_args(quotient)]
        if all(c.is_Integer and not sympy.denom(rest).free_symbols for c, rest in terms):
            return quotient
        return None

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.args[0].is_nonnegative and self.args[1].is_positive else None


class Modulo(sympy.Function):  # type: ignore[misc]
    """a % b with the sign of b, as Python has it; b is positive."""

    is_integer = True
    is_nonnegative = True

    @classmethod
    def eval(cls, a: sympy.Expr, b: sympy.Expr) -> sympy.Expr | None:
        """Return a simpler form, or None if there is none."""
        if a.is_Integer and b.is_Integer and int(b) != 0:
            return sympy.Integer(int(a) % int(b))
        quotient = FloorDiv(a, b)
        if not isinstance(quotient, FloorDiv):
            return sympy.expand(a - quotient * b)
        return None


def simple(value: Size) -> Size:
    """Return the size as an int if it is one, else in sympy's canonical form."""
    if isinstance(value, int):
        return value
    expanded = sympy.expand(value)
    return int(expanded) if expanded.is_Integer else expanded


def symbol(name: str, minimum: int | None = 0) -> sympy.Symbol:
    """Return the variable `name`; `minimum` is 0, 1 (positive), or None (any integer)."""
    if minimum is None:
        return sympy.Symbol(name, integer=True)
    if minimum > 0:
        return sympy.Symbol(name, integer=True, positive=True)
    return sympy.Symbol(name, integer=True, nonnegative=True)


def product(sizes: Iterable[Size]) -> Size:
    """Return the product of sizes, 1 for none."""
    result: Size = 1
    for size in sizes:
        result = result * size
    return simple(result)


def floor_div(a: Size, b: Size) -> Size:
    """Return a // b."""
    return simple(FloorDiv(sympy.sympify(a), sympy.sympify(b)))


def modulo(a: Size, b: Size) -> Size:
    """Return a % b."""
    return simple(Modulo(sympy.sympify(a), sympy.sympify(b)))


def smaller(a: Size, b: Size) -> Size:
    """Return min(a, b)."""
    return simple(sympy.Min(a, b))


def larger(a: Size, b: Size) -> Size:
    """Return max(a, b)."""
    return simple(sympy.Max(a, b))


_MINIMUMS: ContextVar[dict[sympy.Symbol, int]] = ContextVar("_MINIMUMS")


@contextmanager
def minimums() -> Iterator[None]:
    """Forget at the end what is assumed inside about the least values of symbols."""
    token = _MINIMUMS.set(dict(_MINIMUMS.get({})))
    try:
        yield
    finally:
        _MINIMUMS.reset(token)


def assume_at_least_0(size: Size) -> None:
    """Let `equal` and `less` use that `size` is 0 or more, if it is a symbol and a number."""
    if isinstance(size, int):
        return
    constant, rest = size.as_coeff_Add()
    if rest.is_Symbol and constant.is_Integer:
        known = _MINIMUMS.get({})
        known[rest] = max(-int(constant), known.get(rest, -int(constant)))


def _bounded(size: sympy.Expr) -> sympy.Expr:
    """Return the expression with symbols of a known minimum replaced by it and a rest."""
    known = _MINIMUMS.get({})
    found = {
        s: minimum + sympy.Symbol(f"{s.name}_rest", integer=True, nonnegative=True)
        for s, minimum in known.items()
        if s in size.free_symbols
    }
    return sympy.expand(size.xreplace(found)) if found else size


def equal(a: Size, b: Size) -> bool | None:
    """Return whether a == b for all values of the symbols, or for none; None if it depends."""
    difference = simple(a - b)
    if isinstance(difference, int):
        return difference == 0
    difference = _bounded(difference)
    if difference.is_positive or difference.is_negative or _is_never_0(difference):
        return False
    return None


def _is_never_0(difference: sympy.Expr) -> bool:
    """Whether integers are left that no multiple of all other terms can make up for."""
    terms = dict(difference.as_coefficients_dict())
    constant = terms.pop(sympy.Integer(1), 0)
    if not all(factor.is_Integer and term.is_integer for term, factor in terms.items()):
        return False
    common = math.gcd(*(int(factor) for factor in terms.values()))
    return common > 1 and int(constant) % common != 0


def less(a: Size, b: Size) -> bool | None:
    """Return whether a < b for all values of the symbols, or for none; None if it depends."""
    difference = simple(b - a)
    if isinstance(difference, int):
        return difference > 0
    difference = _bounded(difference)
    if difference.is_positive:
        return True
    if difference.is_nonpositive:
        return False
    return None


def symbols_of(size: Size) -> set[sympy.Symbol]:
    """Return the symbols that a size depends on."""
    return set() if isinstance(size, int) else set(size.free_symbols)


def c_text(size: Size) -> str:
    """Return a size as an expression in C."""
    if isinstance(size, int):
        return _literal(size)
    return _print(simple_expr(size))


def simple_expr(size: Size) -> sympy.Expr:
    """Return a size as a sympy expression."""
    return sympy.sympify(size)


def _literal(value: int) -> str:
    if value == -(2**63):
        return "INT64_MIN"
    if -(2**31) < value < 2**31:
        return str(value)
    return f"INT64_C({value})" if value >= 0 else f"-INT64_C({-value})"


def _print(expr: sympy.Expr) -> str:
    if expr.is_Integer:
        return _literal(int(expr))
    if expr.is_Symbol:
        return str(expr.name)
    if expr.is_Add:
        text = ""
        for term in sorted(expr.args, key=lambda term: (term.is_number, str(term))):
            coefficient, rest = term.as_coeff_Mul()
            if coefficient.is_negative:
                part, sign = _factor(-coefficient * rest), "-"
            else:
                part, sign = _factor(term), "+"
            text = f"{text} {sign} {part}" if text else (f"-{part}" if sign == "-" else part)
        return text
    return _factor(expr)


def _factor(expr: sympy.Expr) -> str:
    if expr.is_Mul:
        ordered = sorted(expr.args, key=lambda part: (part.is_number, str(part)))
        return " * ".join(_atom(part) for part in ordered)
    return _atom(expr)


def _atom(expr: sympy.Expr) -> str:
    if expr.is_Integer or expr.is_Symbol:
        text = _print(expr)
        return f"({text})" if text.startswith("-") else text
    if isinstance(expr, FloorDiv):
        return f"ts_floor_div({_print(expr.args[0])}, {_print(expr.args[1])})"
    if isinstance(expr, Modulo):
        return f"ts_modulo({_print(expr.args[0])}, {_print(expr.args[1])})"
    if isinstance(expr, sympy.Min | sympy.Max):
        name = "ts_smaller" if isinstance(expr, sympy.Min) else "ts_larger"
        parts = [_print(part) for part in sorted(expr.args, key=str)]
        text = parts[0]
        for part in parts[1:]:
            text = f"{name}({text}, {part})"
        return text
    if expr.is_Pow and expr.exp.is_Integer and int(expr.exp) > 0:
        return "(" + " * ".join([_atom(expr.base)] * int(expr.exp)) + ")"
    return f"({_print(expr)})"

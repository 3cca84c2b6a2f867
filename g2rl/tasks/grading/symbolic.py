r"""Equality by symbolic mathematics, in unbounded time and memory.

latex2sympy (of math-verify) reads an expression, sympy evaluates it. Call this only in a worker
that can be killed.

Two expressions are equal when they have one value:

- without unknowns, both are compared exactly. The difference is evaluated with as many digits as it
  takes to tell it from 0, up to `MOST_DIGITS`; a difference that is 0 in all of them is 0.
- with unknowns, both are evaluated at several points, which follow from the names of the unknowns,
  to 100 digits. Expressions that agree at all of them are the same function.
- where one side is written with a decimal, a relative difference of `TOLERANCE` is allowed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

TOLERANCE = 1e-6
"""Relative difference that is allowed where one side is a decimal (of the larger, at most of 1)."""
MOST_DIGITS = 2000
"""Digits with which a difference of numbers is told from 0."""
_DIGITS = 100  # with which expressions with unknowns are evaluated
_NEGLIGIBLE = 1e-90  # relative difference of two values that were computed with `_DIGITS`
_ZERO = "1e-500"  # a number that is smaller after `MOST_DIGITS` digits is 0

_EXTREME = re.compile(r"\\(max|min|gcd|lcm)\s?\\\{([^{}]*)\\\}")
_PRIMES = re.compile(r"(?<=[A-Za-z0-9)}])'+")
_IMAGINARY_INDEX = re.compile(r"[_{(,]\s?i\s?[=:}]|\bi\s?=")  # i counts something here


class UnreadableError(ValueError):
    """An expression that latex2sympy cannot read."""


class Expression:
    """An expression that was read, e.g. ``Expression(r"\\frac{x}{2}")``.

    Raises:
        UnreadableError: it cannot be read.
    """

    def __init__(self, text: str) -> None:
        text = _EXTREME.sub(r"\\\1(\2)", text)
        if r"\{" in text:
            raise UnreadableError(text[:80])  # a set is no expression, and the parser goes astray
        read, options = _reader()

        # the parser would drop primes
        prepared = _PRIMES.sub(lambda match: f"_{{{'p' * len(match.group())}}}", text)
        try:
            value = read(prepared, **options)
        except Exception as error:  # the parser raises anything
            raise UnreadableError(text[:80]) from error
        self.has_decimal = _has_decimal(value)
        self.value = _evaluated(value, may_be_complex=not _IMAGINARY_INDEX.search(text))


@lru_cache(maxsize=1)
def _reader() -> tuple[Any, dict[str, Any]]:
    """latex2sympy and its options, imported at first use (about a second)."""
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    for library in ("latex2sympy2_extended", "sympy"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    # A is not a
    config = ConversionConfig(lowercase_symbols=False)
    return latex2sympy, {
        "is_real": None,
        "convert_degrees": False,
        "normalization_config": None,
        "conversion_config": config,
    }


def reset() -> None:
    """Undo what an interrupted computation may have left behind: a changed precision."""
    import mpmath  # type: ignore[import-untyped]

    mpmath.mp.dps = 15


@lru_cache(maxsize=2048)
def expression(text: str) -> Expression:
    """An expression, read once."""
    return Expression(text)


def same_expressions(
    gold: str,
    answer: str,
    factors: Sequence[tuple[Fraction, Fraction]] = ((Fraction(1), Fraction(1)),),
) -> bool:
    """Whether two expressions have one value, under any of the pairs of factors for (gold, answer).

    Raises:
        UnreadableError: one of them cannot be read.
    """
    from sympy import Expr, MatrixBase, Rational

    # matrices and whatever else is no number
    left, right = expression(gold), expression(answer)
    is_decimal = left.has_decimal or right.has_decimal
    if isinstance(left.value, MatrixBase) and isinstance(right.value, MatrixBase):
        return _same_matrices(left.value, right.value, is_decimal)
    if not isinstance(left.value, Expr) or not isinstance(right.value, Expr):
        return bool(left.value == right.value)

    # numbers, under any of the readings
    for gold_factor, answer_factor in factors:
        scaled_gold = left.value * Rational(gold_factor.numerator, gold_factor.denominator)
        scaled_answer = right.value * Rational(answer_factor.numerator, answer_factor.denominator)
        if same_values(scaled_gold, scaled_answer, is_decimal):
            return True
    return False


def _same_matrices(left: Any, right: Any, is_decimal: bool) -> bool:
    """Whether two matrices have one shape and the same entries."""
    if left.shape != right.shape:
        return False
    entries = zip(left.flat(), right.flat(), strict=True)
    return all(same_values(entry, other, is_decimal) for entry, other in entries)


def same_values(left: Any, right: Any, is_decimal: bool = False) -> bool:
    """Whether two sympy expressions have one value."""
    from sympy import nan, zoo

    # what is undefined equals nothing
    if left.has(nan, zoo) or right.has(nan, zoo):
        return False
    if left == right:
        return True
    if left.is_infinite or right.is_infinite:
        return False

    # functions, decimals, exact numbers
    symbols = left.free_symbols | right.free_symbols
    if symbols:
        return _same_functions(left, right, symbols, is_decimal)
    if is_decimal:
        return _close(_number(left, 30), _number(right, 30))
    return _same_numbers(left, right)


def ratio(left: Any, right: Any, is_decimal: bool = False) -> Any:
    """The constant c with left = c * right at all points, or None if there is none but 0.

    Equations left = 0 and right = 0 with such a constant have the same solutions.
    """
    # the ratio at each point at which it can be told
    symbols = left.free_symbols | right.free_symbols
    ratios = []
    for point in points(symbols):
        left_value, right_value = _at(left, point), _at(right, point)
        if left_value is None or right_value is None or abs(right_value) < 1e-12:
            continue
        ratios.append(left_value / right_value)
    if len(ratios) < 3 or abs(ratios[0]) < 1e-12:
        return None

    # it must be the same everywhere
    allowed = (TOLERANCE if is_decimal else _NEGLIGIBLE) * abs(ratios[0])
    return ratios[0] if all(abs(other - ratios[0]) <= allowed for other in ratios[1:]) else None


def points(symbols: set[Any]) -> list[dict[Any, Any]]:
    """Points at which expressions in these symbols are evaluated: {symbol: rational number}.

    Coordinates follow from the symbol's name, are different for different names in nearly all
    cases, and are positive at the first points and of both signs at the others.
    """
    from sympy import Rational

    found = []
    for place in range(6):
        point = {}
        # the names alone decide, so that both sides of a comparison meet the same point
        for order, symbol in enumerate(sorted(symbols, key=str)):
            seed = sum((index + 1) * ord(char) for index, char in enumerate(str(symbol)))
            size = Rational(101 + (seed * (31 + 14 * place) + 57 * order + 13 * place) % 389, 211)
            is_negative = place >= 3 and (seed + place + order) % 2 == 0
            point[symbol] = -size if is_negative else size
        found.append(point)
    return found


def _same_functions(left: Any, right: Any, symbols: set[Any], is_decimal: bool) -> bool:
    """Whether two expressions agree at every point at which both have a value."""
    agreed = 0
    for point in points(symbols):
        # where one has no value, the other must not have one
        left_value, right_value = _at(left, point), _at(right, point)
        if left_value is None and right_value is None:
            continue
        if left_value is None or right_value is None:
            return False

        # the values agree up to rounding, or as decimals do
        scale = max(abs(left_value), abs(right_value))
        if is_decimal:
            scale = TOLERANCE * min(scale, 1.0)
        else:
            scale *= _NEGLIGIBLE
        if abs(left_value - right_value) > scale:
            return False
        agreed += 1
    return agreed >= 3 or (agreed == 0 and _same_formally(left, right))


def _same_formally(left: Any, right: Any) -> bool:
    """Whether two expressions that have no values (f(x), A \\cdot B) simplify to the same."""
    from sympy import simplify

    return bool(simplify(left - right) == 0)


def _at(value: Any, point: dict[Any, Any]) -> Any:
    """The value of an expression at a point as a multiple-precision number; None without one."""
    try:
        return _number(value.subs(point), _DIGITS)
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):
        return None


def _number(value: Any, digits: int) -> Any:
    """A multiple-precision number, real or complex.

    Raises:
        ValueError: the expression has no finite numerical value.
    """
    import mpmath

    # real and imaginary part, both finite
    evaluated = value.evalf(digits, maxn=MOST_DIGITS)
    real, imaginary = evaluated.as_real_imag()
    if not (real.is_Number and imaginary.is_Number and real.is_finite and imaginary.is_finite):
        raise ValueError("no number")
    with mpmath.workdps(digits + 10):
        return mpmath.mpc(real._to_mpmath(digits * 4), imaginary._to_mpmath(digits * 4))


def _close(gold: Any, answer: Any) -> bool:
    """Whether a number is as close to the gold as a decimal has to be."""
    return bool(abs(gold - answer) <= TOLERANCE * min(max(abs(gold), abs(answer)), 1) * (1 + 1e-9))


def _same_numbers(left: Any, right: Any) -> bool:
    """Whether two exact numbers are equal: told by as many digits as it takes."""
    from sympy import Float
    from sympy.core.evalf import PrecisionExhausted

    # rational numbers need no digits
    difference = left - right
    if difference.is_Rational:
        return bool(difference == 0)

    # the strict evaluation ends with a few digits that are certain, or gives up at a number near 0
    try:
        return bool(difference.evalf(3, maxn=MOST_DIGITS, strict=True) == 0)
    except PrecisionExhausted:
        value = difference.evalf(3, maxn=MOST_DIGITS)
        return bool(abs(value) < Float(_ZERO))


def _has_decimal(value: Any) -> bool:
    """Whether an expression was written with a decimal."""
    from sympy import Float

    atoms = getattr(value, "atoms", None)
    return bool(atoms and atoms(Float))


def _evaluated(value: Any, may_be_complex: bool) -> Any:
    """The expression with exact decimals, with i as the imaginary unit, and computed."""
    from sympy import Basic, Float, I, MatrixBase, MatrixExpr, Rational, Symbol, UnevaluatedExpr

    if isinstance(value, MatrixBase):
        return value.applyfunc(lambda entry: _evaluated(entry, may_be_complex))
    if not isinstance(value, Basic):
        return value

    # decimals exactly, and i where it does not count something
    exact: dict[Any, Any] = {number: Rational(str(number)) for number in value.atoms(Float)}
    for symbol in value.atoms(Symbol):
        if symbol.name == "i" and may_be_complex:
            exact[symbol] = I
    value = value.xreplace(exact)

    # what the parser left alone is computed now
    value = value.replace(lambda part: isinstance(part, UnevaluatedExpr), lambda part: part.args[0])
    value = value.doit()
    return value.as_explicit() if isinstance(value, MatrixExpr) else value

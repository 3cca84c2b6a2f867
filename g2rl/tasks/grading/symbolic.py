"""Equality by symbolic mathematics (math-verify), in unbounded time and memory.

Call it only in a worker that can be killed. math-verify would bound itself by SIGALRM; that is off
here (`None`), because it works in main threads only and cannot interrupt a C call. The pool of
worker processes is the bound.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

CLEARLY_DIFFERENT = 1e-6
"""Two values that differ by more than this, relative to the larger (at least 1), are different."""
LARGEST_VALUE = 1e12
"""A value of this size or more is not trusted to tell two answers apart."""


def equal(
    gold: str,
    answer: str,
    readings: Sequence[tuple[Fraction, Fraction]] = ((Fraction(1), Fraction(1)),),
) -> tuple[bool, str]:
    """Whether two normalised answers are equal under any of the `readings`.

    Args:
        gold: the gold answer, normalised.
        answer: the model's answer, normalised.
        readings: pairs of factors for (gold, answer), by which both are scaled before they are
            compared.

    Returns:
        The verdict and its route: "math", or "error" if the libraries raised.
    """
    _, verify, _ = _math_verify()
    try:
        for gold_factor, answer_factor in readings:
            left = _scaled(gold, gold_factor)
            right = _scaled(answer, answer_factor)

            # first what is cheap: can both be read, and do they differ at a point?
            golds, answers = parsed(left), parsed(right)
            if not golds or not answers or _differ_at_a_point(left, right):
                continue

            same = verify(
                list(golds), list(answers), allow_set_relation_comp=True, timeout_seconds=None
            )
            if same:
                return True, "math"
    except Exception:  # the one catch-all of the project: sympy raises anything on hostile input
        return False, "error"
    return False, "math"


@lru_cache(maxsize=1)
def _math_verify() -> tuple[Any, Any, Any]:
    """math-verify's (parse, verify, extraction targets), imported at first use (about a second)."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    # all three warn that their timeouts are off
    for library in ("math_verify", "latex2sympy2_extended", "sympy"):
        logging.getLogger(library).setLevel(logging.CRITICAL)

    # Stripping of units stays off: it takes the t of "sin t" for tonnes, and `normalize` has
    # removed units already.
    config = NormalizationConfig(basic_latex=True, malformed_operators=True, boxed="last")
    target = LatexExtractionConfig(
        try_extract_without_anchor=False, boxed_match_priority=0, normalization_config=config
    )
    return parse, verify, (target,)


@lru_cache(maxsize=2048)
def parsed(normalized: str) -> tuple[Any, ...]:
    """What math-verify reads in an answer; empty when it can read nothing."""
    parse, _, targets = _math_verify()
    boxed = rf"\boxed{{{normalized}}}"  # bare LaTeX is parsed only inside a box
    return tuple(parse(boxed, targets, fallback_mode="no_fallback", parsing_timeout=None))


def _differ_at_a_point(left: str, right: str) -> bool:
    """Whether two readable answers certainly differ, because their values at one point do.

    This spares most wrong answers the simplification that would have to prove it. Anything but two
    exact expressions (sets, relations, matrices, single symbols, decimals) is left to math-verify.
    """
    left_value, right_value = _value(left), _value(right)
    if left_value is None or right_value is None:
        return False
    scale = max(1.0, abs(left_value), abs(right_value))
    return abs(left_value - right_value) > CLEARLY_DIFFERENT * scale


@lru_cache(maxsize=2048)
def _value(normalized: str) -> complex | None:
    """The value of an answer when every variable is set to a number that depends on its name only.

    None for anything that has no such value, or whose value would not be exact.
    """
    from sympy import (
        Derivative,
        Expr,
        Float,
        Function,
        Integral,
        Limit,
        Product,
        Rational,
        Sum,
        Symbol,
    )
    from sympy.core.function import AppliedUndef
    from sympy.matrices.expressions import MatrixExpr

    # leave to math-verify what is no exact, finite expression
    expression = parsed(normalized)[0]
    if not isinstance(expression, Expr) or isinstance(expression, Symbol | Function | MatrixExpr):
        return None
    if expression.atoms(Float):
        return None
    if expression.has(Sum, Product, Integral, Limit, Derivative, AppliedUndef):
        return None
    if expression.is_Mul and all(factor.is_Symbol for factor in expression.args):
        return None  # the letters of a word, which math-verify compares as one

    # evaluate at a point whose coordinates, fractions of 29, follow from the names of the variables
    point: dict[Any, Any] = {}
    for symbol in expression.free_symbols:
        point[symbol] = Rational(3 + sum(map(ord, symbol.name)) % 97, 29)
    try:
        value = complex(expression.subs(point).evalf(15))
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):
        return None  # the expression has no numerical value
    return value if abs(value) < LARGEST_VALUE else None


def _scaled(text: str, factor: Fraction) -> str:
    """LaTeX of an answer times a factor of the form 1/n."""
    return text if factor == 1 else rf"\frac{{{text}}}{{{factor.denominator}}}"

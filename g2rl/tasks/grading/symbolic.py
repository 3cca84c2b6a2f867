"""Equality by symbolic mathematics (math-verify): unbounded time and memory, so only for killable workers.

math-verify bounds itself by SIGALRM, which is off here (`None`): it works in main threads only and cannot
interrupt a C call. The pool of worker processes is the bound.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

CLEARLY = 1e-6
"""Two values that differ by more than this, relative to the larger (at least 1), are different."""


def equal(
    gold: str,
    answer: str,
    readings: Sequence[tuple[Fraction, Fraction]] = ((Fraction(1), Fraction(1)),),
) -> tuple[bool, str]:
    """Whether two normalised answers are equal when scaled by any of `readings`: (verdict, route)."""
    _, verify, _ = _math_verify()
    try:
        for gold_factor, answer_factor in readings:
            left, right = _scaled(gold, gold_factor), _scaled(answer, answer_factor)
            golds, answers = parsed(left), parsed(right)
            if not golds or not answers or _differ_at_a_point(left, right):
                continue
            if verify(
                list(golds), list(answers), allow_set_relation_comp=True, timeout_seconds=None
            ):
                return True, "math"
    except Exception:  # the one catch-all of the project: sympy raises anything on hostile input
        return False, "error"
    return False, "math"


@lru_cache(maxsize=1)
def _math_verify() -> tuple[Any, Any, Any]:
    """math-verify's (parse, verify, extraction targets), imported at first use (about a second)."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    for name in (
        "math_verify",
        "latex2sympy2_extended",
        "sympy",
    ):  # they warn that their timeouts are off
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Its unit stripping takes the t of "sin t" for tonnes; `normalize` has dealt with units already.
    config = NormalizationConfig(basic_latex=True, malformed_operators=True, boxed="last")
    target = LatexExtractionConfig(
        try_extract_without_anchor=False, boxed_match_priority=0, normalization_config=config
    )
    return parse, verify, (target,)


@lru_cache(maxsize=2048)
def parsed(normalized: str) -> tuple[Any, ...]:
    """What math-verify reads in an answer; empty when it cannot. Bare LaTeX parses only inside a box."""
    parse, _, targets = _math_verify()
    read = parse(
        rf"\boxed{{{normalized}}}", targets, fallback_mode="no_fallback", parsing_timeout=None
    )
    return tuple(read)


def _differ_at_a_point(left: str, right: str) -> bool:
    """Whether two readable answers certainly differ, because their values at one point do.

    Spares most wrong answers the simplification that would have to prove it. Anything but two exact
    expressions (sets, relations, matrices, single symbols, decimals) is left to math-verify.
    """
    values = _value(left), _value(right)
    if values[0] is None or values[1] is None:
        return False
    return abs(values[0] - values[1]) > CLEARLY * max(1.0, abs(values[0]), abs(values[1]))


@lru_cache(maxsize=2048)
def _value(normalized: str) -> complex | None:
    """The value of an answer with every variable set to a number that only depends on its name."""
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

    expression = parsed(normalized)[0]
    if not isinstance(expression, Expr) or isinstance(expression, Symbol | Function | MatrixExpr):
        return None
    if expression.atoms(Float) or expression.has(
        Sum, Product, Integral, Limit, Derivative, AppliedUndef
    ):
        return None
    if expression.is_Mul and all(part.is_Symbol for part in expression.args):
        return None  # letters of a word, which math-verify compares as one
    point = {s: Rational(3 + sum(map(ord, s.name)) % 97, 29) for s in expression.free_symbols}
    try:
        value = complex(expression.subs(point).evalf(15))
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):
        return None  # no number: left to math-verify
    return value if abs(value) < 1e12 else None


def _scaled(text: str, factor: Fraction) -> str:
    return text if factor == 1 else rf"\frac{{{text}}}{{{factor.denominator}}}"

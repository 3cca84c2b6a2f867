r"""Signs of an answer on which symbolic mathematics could run away.

A cheap first line of defence: what it lets through is stopped by the limits of the worker.
"""

from __future__ import annotations

import re
from math import log10

from g2rl.tasks.grading.extract import too_deep

MAX_SYMBOLIC = 500
"""Longest normalised answer (characters) that is given to symbolic mathematics."""
MAX_LONGER = 250
"""By how many characters an answer may be longer than three times the gold."""
MAX_PARSE_DEPTH = 20
"""Deepest bracket nesting that is given to symbolic mathematics."""


# Signs of a number that is too large to compute:
# x^1000000, x^(99!)
_HUGE_POWER = re.compile(r"\^\s?[({+-]{0,4}\s?(?:\d{6,}|\d{1,9}\s?\)?!)")
# a^(b^c), of which b and c are caught
_TWO_STOREYS = re.compile(r"\^\s?[({+-]{0,4}\s?(\d{1,9})\s?\^\s?[({+-]{0,4}\s?(\d{1,9})")
# three storeys of powers
_TOWER = re.compile(
    r"\^\s?[({]+[^(){}^]{0,40}\^\s?[({]+[^(){}^]{0,40}\^|\^\s?\w{1,9}\s?\^\s?\w{1,9}\s?\^"
)
# (x^1000)^1000
_POWERED_POWER = re.compile(r"\^\s?\{?\d{3,}\}?\s?\)\s?\^\s?\{?\d{3,}")
# 10000!, (5!)!, (2^99)!
_HUGE_FACTORIAL = re.compile(r"\d{5,}\s?\)?\s?!|!\s?\)?\s?!|\^\S{1,20}\)\s?!")
# binomials of large numbers
_HUGE_BINOMIAL = re.compile(r"binom\s?\{?\s?\d{5,}|\d{5,}\s?\}?\s?\\choose")
# functions of large numbers
_HUGE_ARGUMENT = re.compile(r"\\(?:Gamma|zeta)\s?[({]{1,2}\s?(?:\d{4,}|\d{1,9}\s?\^)")
# 200 digits, 1e1000
_LONG_NUMBER = re.compile(r"\d{200}|\d[eE][+-]?\d{4}")
# sums, products, limits and integrals
_ITERATED = re.compile(r"\\(?:sum|prod|int|lim|iint|iiint|oint)(?![a-z])")


def is_much_longer(answer: str, gold: str) -> bool:
    """Whether an answer is so much longer than the gold that trying is not worth while."""
    return len(answer) > 3 * len(gold) + MAX_LONGER


def is_hostile(text: str) -> bool:
    """Whether symbolic mathematics could run away on this (normalised) answer.

    A cheap first line of defence only: what it lets through is stopped by the worker's limits.
    """
    # long, deep, or with a very long number
    if len(text) > MAX_SYMBOLIC or too_deep(text, MAX_PARSE_DEPTH) or _LONG_NUMBER.search(text):
        return True

    # several sums, products or integrals
    if len(_ITERATED.findall(text)) > 2:
        return True

    # a^(b^c): the exponent b^c must not exceed 10^5
    for base, power in _TWO_STOREYS.findall(text):
        if int(power) * log10(max(int(base), 1)) > 5:
            return True

    # other powers, factorials and binomials
    bombs = (_HUGE_POWER, _TOWER, _HUGE_ARGUMENT, _HUGE_FACTORIAL, _HUGE_BINOMIAL, _POWERED_POWER)
    return any(bomb.search(text) for bomb in bombs)

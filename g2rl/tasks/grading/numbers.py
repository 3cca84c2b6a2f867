r"""Exact numbers: integers, decimals, ratios, fractions, mixed numbers, powers of ten.

They are compared as rational numbers, in linear time and in any process.
"""

from __future__ import annotations

import re
from fractions import Fraction

TOLERANCE = Fraction(1, 1_000_000)
"""Relative to the larger of the two (at most 1): so close a decimal counts as right."""

# the forms of an exact number, and a decimal with a comma, which may be a list
_DECIMAL = re.compile(r"([+-]?)\s?(\d{1,60}(?:\.\d{0,60})?)")
_RATIO = re.compile(r"([+-]?)\s?(\d{1,60}(?:\.\d{1,60})?)\s?/\s?(\d{1,60}(?:\.\d{1,60})?)")
_FRAC = re.compile(
    r"([+-]?)\s?(\d{0,20})\s?\\frac\{\s?([+-]?\d{1,60})\s?\}\{\s?([+-]?\d{1,60})\s?\}"
)
_SCIENTIFIC = re.compile(
    r"([+-]?\d{1,20}(?:\.\d{1,20})?)\s?(?:\\times|\\cdot|\*)\s?10\s?\^\s?\{?\s?([+-]?\d{1,3})\s?\}?"
)
_MIXED = re.compile(r"([+-]?)\s?(\d{1,20})\s(\d{1,20})\s?/\s?(\d{1,20})")
_POINT = re.compile(r"\d[.,]\d|(?<!\d)\.\d")
_DECIMAL_COMMA = re.compile(r"-?\d{1,60},\d{1,60}")


def rational(text: str, other: str = "") -> Fraction | None:
    """The exact value of an integer, decimal, ratio, fraction or mixed number; None for all else.

    "0,25" is a decimal only when `other` is written with a decimal point.
    """
    text = text.strip()

    # a decimal comma, if the other side has a decimal point
    if _DECIMAL_COMMA.fullmatch(text) and re.fullmatch(r"-?\d+\.\d+", other.strip()):
        text = text.replace(",", ".")

    # decimals, which `Fraction` reads itself
    if match := _DECIMAL.fullmatch(text):
        return Fraction(match[1].replace("+", "") + match[2])
    if match := _SCIENTIFIC.fullmatch(text):
        return Fraction(match[1]) * Fraction(10) ** int(match[2])

    # ratios, fractions, mixed numbers: a whole part counts only in front of a positive fraction
    if match := _RATIO.fullmatch(text):
        top, bottom = Fraction(match[2]), Fraction(match[3])
    elif match := (_FRAC.fullmatch(text) or _MIXED.fullmatch(text)):
        top, bottom = Fraction(match[3]), Fraction(match[4])
        if match[2] and bottom > 0 and top >= 0:
            top += Fraction(match[2]) * bottom
        elif match[2]:
            return None
    else:
        return None

    # the quotient, with the sign in front of it all
    if bottom == 0:
        return None
    if match[1] == "-":
        top = -top
    return top / bottom


def is_decimal(text: str) -> bool:
    """Whether a number is written with a decimal point (or comma)."""
    return bool(_POINT.search(text))


def close(gold: Fraction, answer: Fraction, is_decimal: bool) -> bool:
    """Whether two numbers are equal, up to `TOLERANCE` if one of them is a decimal."""
    if gold == answer:
        return True
    if not is_decimal:
        return False
    size = max(abs(gold), abs(answer))
    return abs(gold - answer) <= TOLERANCE * min(size, Fraction(1))

r"""Mathematical answers: strings first, exact rationals next, symbolic mathematics last.

The route of a verdict says how it was reached:

``string``, ``number``  decided by `screen`, in linear time, safe in any process
``refused``             wrong without trying: it looks like a bomb (see `is_hostile`)
``math``                decided by math-verify (see `symbolic`), in a worker that can be killed
``error``               wrong, because math-verify raised
``unparsed``            wrong, because there is no answer

Golds are compared as given: parenthesised tuples keep their order, bare lists and sets do not.
"""

from __future__ import annotations

import re
import time
from fractions import Fraction
from functools import lru_cache
from math import log10

from g2rl.tasks.grading import symbolic
from g2rl.tasks.grading.extract import MAX_ANSWER, boxes, clean, extract_answer, too_deep
from g2rl.tasks.grading.normalize import as_words, has_percent, key, normalize
from g2rl.tasks.grading.staged import PENDING
from g2rl.types import Problem, Verdict

TOLERANCE = Fraction(1, 1_000_000)
"""Relative to the gold (at most 1): a decimal counts as right when it is this close."""
MAX_SYMBOLIC = 500
"""Longest normalised answer (characters) that is given to symbolic mathematics."""
MAX_PARSE_DEPTH = 20
"""Deepest bracket nesting that is given to symbolic mathematics."""

# the forms of an exact number, and a decimal with a comma, which may be a list
_DECIMAL = re.compile(r"([+-]?)\s?(\d{1,60}(?:\.\d{0,60})?)")
_RATIO = re.compile(r"([+-]?)\s?(\d{1,60}(?:\.\d{1,60})?)\s?/\s?(\d{1,60}(?:\.\d{1,60})?)")
_FRAC = re.compile(
    r"([+-]?)\s?(\d{0,20})\s?\\frac\{\s?([+-]?\d{1,60})\s?\}\{\s?([+-]?\d{1,60})\s?\}"
)
_SCIENTIFIC = re.compile(r"([+-]?\d{1,20}(?:\.\d{1,20})?[eE][+-]?\d{1,2})")
_MIXED = re.compile(r"([+-]?)\s?(\d{1,20})\s(\d{1,20})\s?/\s?(\d{1,20})")
_DECIMAL_COMMA = re.compile(r"-?\d{1,60},\d{1,60}")

# a numeral with its base: 204_5
_BASED = re.compile(r"([0-9A-Z]{1,60})_\{?(\d{1,2})\}?")
# what may stand in front of "=": x, f(x), \theta
_NAME = re.compile(r"(?:[A-Za-z(){}':,/ ]|\\[A-Za-z]{1,12}|_\{?\w{1,8}\}?){1,60}")
# what its spelling alone tells apart: a letter (A is not a), a based numeral, a time of day
_LABEL = re.compile(r"[A-Za-z]|[0-9A-Z]{1,60}_\{?\d{1,2}\}?|\d{1,2}:\d\d(?:[AaPp]\.?[Mm]\.?)?")

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
# 200 digits, 1e1000
_LONG_NUMBER = re.compile(r"\d{200}|\d[eE][+-]?\d{4}")
# sums, products, limits and integrals
_ITERATED = re.compile(r"\\(?:sum|prod|int|lim|iint|iiint|oint)(?![a-z])")


class MathVerifier:
    """Grades mathematical answers, e.g. ``MathVerifier().grade(r"is \\boxed{\\frac12}", problem)``.

    `boxed_only` makes an answer outside a box count as unparsed.
    """

    bounded = False

    def __init__(self, boxed_only: bool = False) -> None:
        self.boxed_only = boxed_only

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion. Never raises, but may take any time and memory: use a worker."""
        start = time.perf_counter()

        # the cheap part first, and mathematics only if that is not enough
        verdict = self.screen(completion, problem)
        if verdict.route != PENDING or verdict.answer is None:
            return verdict
        correct, route = self.decide(verdict.answer, problem.answer)
        return Verdict(correct, verdict.answer, route, time.perf_counter() - start)

    def screen(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion as far as that is cheap; route `PENDING` if it is not enough."""
        start = time.perf_counter()
        answer = extract_answer(completion, self.boxed_only)
        if answer is None:
            return Verdict(False, None, "unparsed", time.perf_counter() - start)
        correct, route = screen_pair(read_gold(problem.answer), answer)
        return Verdict(bool(correct), answer, route, time.perf_counter() - start)

    def decide(self, answer: str, gold: str) -> tuple[bool, str]:
        """Compare a PENDING answer by symbolic mathematics: (correct, route). Only in a worker."""
        return _symbolic(read_gold(gold), answer)

    def key(self, answer: str) -> str:
        """Normal form of an extracted answer: equal keys mean equivalent answers."""
        return key(answer)

    def screen_equivalent(self, left: str, right: str) -> bool | None:
        """`equivalent` as far as it is cheap; None when only mathematics can tell."""
        return screen_pair(left, right)[0]

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two extracted answers mean the same, whichever stands first. Only in a worker."""
        same, _ = screen_pair(left, right)
        if same is not None:
            return same

        # math-verify treats the first as the gold, so try both orders
        return _symbolic(left, right)[0] or _symbolic(right, left)[0]

    def warm_up(self) -> None:
        """Import the mathematics and use it, so that the first item does not pay for it.

        Raises:
            RuntimeError: math-verify judges a right answer as wrong.
        """
        correct, route = _symbolic(r"\frac{\sqrt{2}}{2}", r"\sin(\pi/4)")
        if not correct:
            raise RuntimeError(
                f"math-verify does not work here: sin(pi/4) was judged by {route!r} as wrong"
            )

        # sympy imports its units when it first simplifies, which takes a third of a second
        _symbolic(r"\frac{x+1}{y}", r"\frac{x}{y}+\frac{1}{y}")


@lru_cache(maxsize=4096)
def read_gold(gold: str) -> str:
    """The answer in a gold that may be bare, delimited, or a whole solution with a box."""
    if "box" in gold and boxes(gold)[0]:
        return extract_answer(gold, boxed_only=True) or clean(gold)
    return clean(gold)


def screen_pair(gold: str, answer: str) -> tuple[bool | None, str]:
    """Compare two answers without symbolic mathematics, in linear time.

    Returns:
        Whether they are equal and the route, or (None, `PENDING`) if only mathematics can tell.
    """
    # too long for anything but a comparison of characters
    if len(gold) > MAX_ANSWER or len(answer) > MAX_ANSWER:
        return gold == answer, "refused"

    # in one spelling, without "x =" or a base on one side only
    left, right = _align(normalize(gold), normalize(answer))
    if not left or not right:
        return False, "string"
    left, right = _unbase(left, right)

    # equal strings mean equal answers
    left_key, right_key = key(left), key(right)
    if left_key == right_key:
        return True, "string"

    # different words or labels are different answers
    if as_words(left) is not None or as_words(right) is not None:
        return False, "string"
    if _LABEL.fullmatch(left_key) and _LABEL.fullmatch(right_key):
        return False, "string"

    # exact numbers
    left_number, right_number = rational(left, right), rational(right, left)
    if left_number is not None and right_number is not None:
        for left_factor, right_factor in _percent_readings(gold, answer):
            if _close(left_number * left_factor, right_number * right_factor):
                return True, "number"
        return False, "number"

    # mathematics could run away on these
    if is_hostile(right) or is_hostile(left):
        return False, "refused"
    return None, PENDING


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
        return Fraction(match[1])

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
    bombs = (_HUGE_POWER, _TOWER, _HUGE_FACTORIAL, _HUGE_BINOMIAL, _POWERED_POWER)
    return any(bomb.search(text) for bomb in bombs)


def _align(left: str, right: str) -> tuple[str, str]:
    """Drop "name =" on the side that has it when the other has none: "x = 5" against "5"."""
    # only the answer names the unknown; it may derive the value ("x = 2 + 3 = 5")
    if "=" in right and "=" not in left and not re.search(r"[<>]|\\[gln]eq", left + right):
        head, _, tail = right.rpartition("=")
        if "," not in head or _NAME.fullmatch(head.strip()):
            right = tail.strip()

    # only the gold does
    elif left.count("=") == 1 and "=" not in right:
        head, _, tail = left.partition("=")
        if _NAME.fullmatch(head.strip()):
            left = tail.strip()
    return left, right


def _unbase(left: str, right: str) -> tuple[str, str]:
    """Drop the base of a numeral such as 204_5 where only one side names it."""
    left_numeral, right_numeral = _BASED.fullmatch(left), _BASED.fullmatch(right)
    if left_numeral and not right_numeral:
        return left_numeral[1], right
    if right_numeral and not left_numeral:
        return left, right_numeral[1]
    return left, right


def _percent_readings(gold: str, answer: str) -> list[tuple[Fraction, Fraction]]:
    """Factors for (gold, answer) under which the two are compared.

    When only one of them is a percentage, n % is read as n and also as n/100.
    """
    one, percent = Fraction(1), Fraction(1, 100)
    if has_percent(gold) == has_percent(answer):
        return [(one, one)]
    if has_percent(gold):
        return [(one, one), (percent, one)]
    return [(one, one), (one, percent)]


def _close(gold: Fraction, answer: Fraction) -> bool:
    """Whether two numbers are equal, up to `TOLERANCE` unless both are integers."""
    if gold == answer:
        return True
    if gold.denominator == answer.denominator == 1:
        return False
    return abs(gold - answer) <= TOLERANCE * min(abs(gold), Fraction(1))


def _symbolic(gold: str, answer: str) -> tuple[bool, str]:
    """Compare two answers by math-verify: (correct, route)."""
    left, right = _align(normalize(gold), normalize(answer))
    return symbolic.equal(left, right, _percent_readings(gold, answer))

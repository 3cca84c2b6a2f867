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

from g2rl.tasks.grading import relations, symbolic
from g2rl.tasks.grading.bombs import is_hostile, is_much_longer
from g2rl.tasks.grading.compare import Known, same
from g2rl.tasks.grading.extract import MAX_ANSWER, boxes, clean, extract_answer
from g2rl.tasks.grading.normalize import Answer, as_words, has_percent, key, read_answer
from g2rl.tasks.grading.numbers import close, is_decimal, rational
from g2rl.tasks.grading.staged import PENDING
from g2rl.tasks.grading.structure import Part, parse
from g2rl.tasks.grading.units import conversion, meanings
from g2rl.types import Problem, Verdict

BOXED_ONLY = "boxed_only"
"""Stands behind the name of the verifier where an answer counts only in a box."""
Factors = tuple[Fraction, Fraction]
"""What the gold and the answer are multiplied by before they are compared."""

# a numeral with its base: 204_5
_BASED = re.compile(r"([0-9A-Z]{1,60})_\{?(\d{1,2})\}?")
# what its spelling alone tells apart: a letter (A is not a), the name of a figure, a based
# numeral, a time of day
_LABEL = re.compile(
    r"[A-Za-z]|[A-Z]{3,60}|[0-9A-Z]{1,60}_\{?\d{1,2}\}?|\d{1,2}:\d\d(?:[AaPp]\.?[Mm]\.?)?"
)


class MathVerifier:
    """Grades mathematical answers, e.g. ``MathVerifier().grade(r"is \\boxed{\\frac12}", problem)``.

    `boxed_only` makes an answer outside a box count as unparsed. Of a completion that was cut off,
    only an answer in a box counts in any case.
    """

    bounded = False
    packages = ("math-verify", "latex2sympy2-extended", "sympy")
    minds_cut_off = True
    one_right_answer = True

    def __init__(self, boxed_only: bool = False) -> None:
        self.boxed_only = boxed_only

    @property
    def identity(self) -> str:
        """The settings, as a samples file names them."""
        return BOXED_ONLY if self.boxed_only else ""

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
        form = key(answer)
        if has_percent(answer):
            form += "%"

        # 5 hours are not 5 minutes
        units = meanings(read_answer(answer).unit)
        return f"{form} {units[0]}" if units else form

    def screen_equivalent(self, left: str, right: str) -> bool | None:
        """`equivalent` as far as it is cheap; None when only mathematics can tell."""
        return screen_pair(left, right, is_strict=True)[0]

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two extracted answers mean the same, whichever stands first. Only in a worker."""
        known, _ = screen_pair(left, right, is_strict=True)
        if known is not None:
            return known

        # an equation stands for its value less easily in a gold, so try both orders
        return (
            _symbolic(left, right, is_strict=True)[0] or _symbolic(right, left, is_strict=True)[0]
        )

    def warm_up(self) -> None:
        """Import the mathematics and use it, so that the first item does not pay for it.

        Raises:
            RuntimeError: it judges a right answer as wrong, or a wrong one as right.
        """
        symbolic.reset()

        # a number, an expression and an equation, each of which loads other code
        pairs = (
            (r"\frac{\sqrt{2}}{2}", r"\sin(\pi/4)", True),
            (r"\frac{x+1}{y}", r"\frac{x}{y}+\frac{1}{y}", True),
            ("2x+y=1", "y=2-2x", False),
        )
        for gold, answer, expected in pairs:
            if _symbolic(gold, answer) != (expected, "math"):
                raise RuntimeError(f"the mathematics does not work here: {answer} against {gold}")


@lru_cache(maxsize=4096)
def read_gold(gold: str) -> str:
    """The answer in a gold that may be bare, delimited, or a whole solution with a box."""
    if "box" in gold and boxes(gold)[0]:
        return extract_answer(gold, boxed_only=True) or clean(gold)
    return clean(gold)


def screen_pair(gold: str, answer: str, is_strict: bool = False) -> tuple[bool | None, str]:
    """Compare two answers without symbolic mathematics, in linear time.

    Args:
        gold: the gold, as it was written.
        answer: the answer, as it was written.
        is_strict: read n % as n/100 only, even if the other side has no sign.

    Returns:
        Whether they are equal and the route, or (None, `PENDING`) if only mathematics can tell.
    """
    # too long for anything but a comparison of characters
    if len(gold) > MAX_ANSWER or len(answer) > MAX_ANSWER:
        return gold == answer, "refused"

    # units of two kinds, or two conditions, set answers apart
    screen = Screen(gold, answer, is_strict)
    left, right = screen.gold.text, screen.answer.text
    if not left or not right or screen.conversion is None or clauses_differ(screen):
        return False, "string"

    # equal strings mean equal answers
    if screen.is_plain and key(left) == key(right):
        return True, "string"
    are_numbers = rational(left, right) is not None and rational(right, left) is not None
    if are_numbers:  # also "1000,99", which is a list when it stands alone
        verdict = screen.expressions(left, right)
    else:
        verdict = same(parse(left), parse(right), screen)
    if verdict is not None:
        return verdict, "number" if screen.used_numbers else "string"

    # mathematics could run away on these
    if is_hostile(right) or is_hostile(left) or is_much_longer(right, left):
        return False, "refused"
    return None, PENDING


class Screen:
    """Compares expressions by strings and exact numbers: the cheap means of `compare.same`.

    Args:
        gold: the gold, as it was written.
        answer: the answer, as it was written.
        is_strict: read n % as n/100 only, even if the other side has no sign.
    """

    def __init__(self, gold: str, answer: str, is_strict: bool = False) -> None:
        self.gold, self.answer = read_answer(gold), read_answer(answer)
        self.conversion = conversion(self.gold.unit, self.answer.unit)
        self.readings = percent_readings(gold, answer, is_strict)
        self.is_plain = self.conversion == (1, 1) and self.readings[0] == (1, 1)
        self.used_numbers = False

    def expressions(self, gold: str, answer: str) -> Known:
        """Whether two expressions have one value, as far as strings and exact numbers tell."""
        # quantities of two kinds are never equal
        left, right = read_answer(gold), read_answer(answer)
        factors = self.factors(left, right)
        if not factors:
            return False

        # equal strings, without a base that only one side names
        left_text, right_text = _unbase(left.text, right.text)
        left_key, right_key = key(left_text), key(right_text)
        if left_key == right_key and factors[0] == (1, 1):
            return True

        # different words or labels are different answers
        if as_words(left_text) is not None or as_words(right_text) is not None:
            return left_key.isalpha() and left_key.casefold() == right_key.casefold()
        if _LABEL.fullmatch(left_key) and _LABEL.fullmatch(right_key):
            return False

        # exact numbers
        gold_number, number = rational(left_text, right_text), rational(right_text, left_text)
        if gold_number is None or number is None:
            return None
        self.used_numbers = True
        for gold_factor, factor in factors:
            scaled_gold, scaled = gold_number * gold_factor, number * factor
            if close(scaled_gold, scaled, is_decimal(left_text) or is_decimal(right_text)):
                return True
        return False

    def relations(self, gold: Part, answer: Part) -> Known:
        """Strings do not tell whether two relations have the same solutions."""
        return None

    def sets(self, gold: Part, answer: Part) -> Known:
        """Strings do not tell whether two parts describe the same set."""
        return None

    def factors(self, gold: Answer, answer: Answer) -> list[Factors]:
        """Factors for (gold, answer) under which two expressions are compared; none if their units
        are of different kinds."""
        units = conversion(gold.unit or self.gold.unit, answer.unit or self.answer.unit)
        if units is None:
            return []
        return [(units[0] * left, units[1] * right) for left, right in self.readings]


class Mathematics(Screen):
    """Compares by symbolic mathematics what the screen cannot tell. Only in a worker."""

    def expressions(self, gold: str, answer: str) -> Known:
        """Whether two expressions have one value."""
        # what is cheap comes first
        known = super().expressions(gold, answer)
        if known is not None:
            return known

        # an expression that cannot be read equals nothing
        left, right = read_answer(gold), read_answer(answer)
        try:
            return symbolic.same_expressions(left.text, right.text, self.factors(left, right))
        except symbolic.UnreadableError:
            return False

    def relations(self, gold: Part, answer: Part) -> Known:
        """Whether two chains of relations have the same solutions."""
        try:
            return relations.same_relations(gold, answer)
        except symbolic.UnreadableError:
            return False

    def sets(self, gold: Part, answer: Part) -> Known:
        """Whether two parts describe the same set of real numbers."""
        return relations.same_sets(gold, answer)


def clauses_differ(screen: Screen) -> bool:
    """Whether both answers end in a condition with a formula, and the formulas differ."""
    # words do not count: "for all x > 0" is "where x > 0"
    formulas = []
    for answer in (screen.gold, screen.answer):
        formula = re.sub(
            r"\\text\s?\{[^{}]*\}|(?<!\\)\b[A-Za-z]{2,}\b|[\s$,(){}]", "", answer.clause
        )
        if re.search(r"[<>=\d]|\\[gln]", formula):
            formulas.append(formula)
    return len(formulas) == 2 and formulas[0] != formulas[1]


def _unbase(left: str, right: str) -> tuple[str, str]:
    """Drop the base of a numeral such as 204_5 where only one side names it."""
    left_numeral, right_numeral = _BASED.fullmatch(left), _BASED.fullmatch(right)
    if left_numeral and not right_numeral:
        return left_numeral[1], right
    if right_numeral and not left_numeral:
        return left, right_numeral[1]
    return left, right


def percent_readings(gold: str, answer: str, is_strict: bool = False) -> list[Factors]:
    """Factors for (gold, answer) under which the two are compared.

    When only one of them is a percentage, n % is read as n/100, and also as n unless `is_strict`.
    """
    one, percent = Fraction(1), Fraction(1, 100)
    if has_percent(gold) == has_percent(answer):
        return [(one, one)]
    as_share = (percent, one) if has_percent(gold) else (one, percent)
    return [as_share] if is_strict else [(one, one), as_share]


def _symbolic(gold: str, answer: str, is_strict: bool = False) -> tuple[bool, str]:
    """Compare two answers by symbolic mathematics: (correct, route)."""
    means = Mathematics(gold, answer, is_strict)
    try:
        verdict = same(parse(means.gold.text), parse(means.answer.text), means)
    except MemoryError:
        raise  # the worker's limit; the grader counts it as killed
    except Exception:  # the one catch-all of the project: sympy raises anything on hostile input
        return False, "error"
    return bool(verdict), "math"

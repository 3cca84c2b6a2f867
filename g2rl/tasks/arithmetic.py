"""Two-digit numbers, for a pretrained model that a CPU can train.

Three forms, all few-shot and without a chat template:

    sum      "47 + 26 ="                      one right answer: 73
    between  "between 30 and 50 is"           many right answers: 31, 32, ..., 49
    parts    "two numbers that make 73:"      many right answers: 47 + 26, 1 + 72, ...

In the first form only accuracy can grow. In the others pass@1 can grow while the model forgets all
ways but one, so coverage is measured on a pretrained model, exactly: right answers can be counted,
and the answer of a verdict is the number, or the pair in order of size. Parts are hard for a small
model, because it must turn sums round. The *first* number (or sum of two) of a response counts,
because such a model does not stop by itself; what follows is not read.

A number is read to its end: " 73.9" is no 73, and " 31,000" is 31 thousand, which does not lie
between 30 and 50. Only whole numbers are right. A point or a comma that no digits follow in this
way ends the number ("73.", "73, 4"), and ".0" changes nothing. A sign before a number is no part of
it: none is asked for, and such models write dashes before items of lists.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise

from g2rl.tasks.grading.verifier import Verifier
from g2rl.tasks.streams import stream
from g2rl.tasks.task import stream_from_rows
from g2rl.types import Problem, Verdict

FORMS = ("sum", "between", "parts")
LEAST, MOST = 10, 99
"""Terms of a sum, and targets of which parts are asked."""
TRAIN_SUMS, HELD_OUT_SUMS = 2048, 256
HELD_OUT_TARGETS = 24
"""Of the 90 targets; training asks for the parts of all others."""
WIDTHS = (16, 20, 24)
"""Upper bound minus lower bound of what `between` asks; one less is the number of right answers."""
HELD_OUT_BOUNDS = 48
"""Of the pairs of bounds; training asks for numbers between all others."""
SUM_SHOTS = ((12, 35), (60, 18), (47, 26))
PARTS_SHOTS = ((46, 12), (95, 60), (31, 5))
"""Examples in every prompt, as (target, first part); they are asked of nobody."""
BETWEEN_SHOTS = ((12, 30, 17), (60, 81, 74), (35, 52, 41), (23, 44, 38))
"""Examples as (lower bound, upper bound, a number between); none has one of `WIDTHS`."""

_DRAW_STREAM = 0xA717  # a kind of random stream
_MAX_CHARACTERS = 64
# digits, commas between thousands and a decimal point; or a point at the beginning
_NUMBER = re.compile(
    r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<![\w.])\.\d+",
    re.ASCII,
)
_PLUS = re.compile(r"\s*\+\s*", re.ASCII)


# --- problems


def sum_prompt(left: int, right: int) -> str:
    """Three worked sums and an open one."""
    lines = [f"{a} + {b} = {a + b}" for a, b in SUM_SHOTS]
    return "\n".join([*lines, f"{left} + {right} ="])


def parts_prompt(target: int) -> str:
    """Three targets with two numbers that make them, and an open one."""
    lines = [f"two numbers that make {n}: {a} + {n - a}" for n, a in PARTS_SHOTS]
    return "\n".join([*lines, f"two numbers that make {target}:"])


def between_prompt(lower: int, upper: int) -> str:
    """Four pairs of bounds with a number between them, and an open one."""
    lines = [f"between {a} and {b} is {number}" for a, b, number in BETWEEN_SHOTS]
    return "\n".join([*lines, f"between {lower} and {upper} is"])


@lru_cache(maxsize=1)
def _drawn_sums() -> tuple[tuple[int, int], ...]:
    """Pairs of terms, no two of them the same sum in another order; held-out ones first."""
    # 3 + 4 and 4 + 3 are one question
    rng = stream(_DRAW_STREAM, 0)
    taken = {tuple(sorted(pair)) for pair in SUM_SHOTS}
    chosen: list[tuple[int, int]] = []
    while len(chosen) < HELD_OUT_SUMS + TRAIN_SUMS:
        pair = (rng.randint(LEAST, MOST), rng.randint(LEAST, MOST))
        if tuple(sorted(pair)) not in taken:
            taken.add(tuple(sorted(pair)))
            chosen.append(pair)
    return tuple(chosen)


@lru_cache(maxsize=1)
def _drawn_targets() -> tuple[int, ...]:
    """All targets but those of the examples in a random order; held-out ones first."""
    # one order for all, of which the first are held out
    shown = {target for target, _ in PARTS_SHOTS}
    targets = [target for target in range(LEAST, MOST + 1) if target not in shown]
    stream(_DRAW_STREAM, 1).shuffle(targets)
    return tuple(targets)


@lru_cache(maxsize=1)
def _drawn_bounds() -> tuple[tuple[int, int], ...]:
    """All pairs of two-digit bounds of a width in `WIDTHS` in a random order; held-out first."""
    bounds: list[tuple[int, int]] = []
    for width in WIDTHS:
        bounds += [(lower, lower + width) for lower in range(LEAST, MOST + 1 - width)]
    stream(_DRAW_STREAM, 2).shuffle(bounds)
    return tuple(bounds)


def problems(form: str, held_out: bool) -> list[Problem]:
    """All training problems or all held-out problems of a form.

    Raises:
        ValueError: there is no such form.
    """
    if form not in FORMS:
        raise ValueError(f"task.source.form must be one of {FORMS}, got {form!r}")
    kind = "heldout" if held_out else "train"

    # one right answer
    listed: list[Problem] = []
    if form == "sum":
        sums = _drawn_sums()[:HELD_OUT_SUMS] if held_out else _drawn_sums()[HELD_OUT_SUMS:]
        for left, right in sums:
            id_ = f"arithmetic_sum/{kind}/{left}+{right}"
            meta = {"terms": [left, right]}
            listed.append(Problem(id_, sum_prompt(left, right), str(left + right), meta))
        return listed

    # many: the gold answer is one of them
    if form == "between":
        bounds = _drawn_bounds()
        for lower, upper in bounds[:HELD_OUT_BOUNDS] if held_out else bounds[HELD_OUT_BOUNDS:]:
            id_ = f"arithmetic_between/{kind}/{lower}-{upper}"
            about = {"bounds": [lower, upper], "solutions": upper - lower - 1}
            listed.append(Problem(id_, between_prompt(lower, upper), str(lower + 1), about))
        return listed

    targets = _drawn_targets()
    for target in targets[:HELD_OUT_TARGETS] if held_out else targets[HELD_OUT_TARGETS:]:
        id_ = f"arithmetic_parts/{kind}/{target}"
        more = {"target": target, "solutions": target // 2}
        gold = canonical("1", str(target - 1))
        listed.append(Problem(id_, parts_prompt(target), gold, more))
    return listed


def canonical(left: str, right: str) -> str:
    """Two numbers as the answer of a verdict: the smaller one first, ``26+47``."""
    smaller, larger = sorted((left, right), key=Decimal)
    return f"{smaller}+{larger}"


# --- verdicts


class _ComparedAsText:
    """What both verifiers share: answers are the same if they are the same text."""

    bounded = True

    def key(self, answer: str) -> str:
        """The answer itself, which is canonical."""
        return answer

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two answers are the same."""
        return left == right


def _in_short(number: str) -> str:
    """A number without commas, and without zeros at the beginning or at the end of a fraction."""
    whole, _, fraction = number.replace(",", "").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def _first_number(completion: str) -> str | None:
    """The first number near the beginning, `_in_short`; None if there is none."""
    found = _NUMBER.search(completion[:_MAX_CHARACTERS])
    return None if found is None else _in_short(found[0])


def _first_sum(completion: str) -> tuple[str, str] | None:
    """The first two numbers near the beginning with only a plus between them, `_in_short`."""
    # numbers one after another, because a sum must not begin inside of one
    text = completion[:_MAX_CHARACTERS]
    for left, right in pairwise(_NUMBER.finditer(text)):
        if _PLUS.fullmatch(text, left.end(), right.start()):
            return _in_short(left[0]), _in_short(right[0])
    return None


class SumVerifier(_ComparedAsText):
    """Right if the first number of the response is the sum."""

    one_right_answer = True

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion. The verdict's answer is the number in short: 073.0 is 73."""
        # a number that the token limit cut off is another number
        start = time.perf_counter()
        answer = _first_number(completion)
        if answer is None:
            return Verdict(False, None, "unparsed", time.perf_counter() - start)
        return Verdict(answer == problem.answer, answer, "number", time.perf_counter() - start)


class BetweenVerifier(_ComparedAsText):
    """Right if the first number of the response is whole and lies between the bounds."""

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion. The verdict's answer is the number in short: 040.0 is 40."""
        start = time.perf_counter()
        answer = _first_number(completion)
        if answer is None:
            return Verdict(False, None, "unparsed", time.perf_counter() - start)
        # right answers are counted, so there must be no end of fractions among them
        lower, upper = problem.meta["bounds"]
        correct = answer.isdigit() and lower < int(answer) < upper
        return Verdict(correct, answer, "number", time.perf_counter() - start)


class PartsVerifier(_ComparedAsText):
    """Right if the first sum in the response, of two whole numbers above zero, makes the target."""

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion. The verdict's answer is the pair, as `canonical` writes it."""
        start = time.perf_counter()
        found = _first_sum(completion)
        if found is None:
            return Verdict(False, None, "unparsed", time.perf_counter() - start)

        # 0 + 73 would be a right answer to everything
        left, right = found
        correct = False
        if left.isdigit() and right.isdigit() and "0" not in found:
            correct = int(left) + int(right) == problem.meta["target"]
        return Verdict(correct, canonical(left, right), "sum", time.perf_counter() - start)


def verifier_of(form: str) -> Verifier:
    """The verifier of a form."""
    if form == "between":
        return BetweenVerifier()
    return SumVerifier() if form == "sum" else PartsVerifier()


# --- the task


class Arithmetic:
    """Training problems of one form in shuffled epochs.

    Args:
        form: one of `FORMS`.
    """

    def __init__(self, form: str = "sum") -> None:
        # the name is that of the form, because metrics carry it
        self.problems = problems(form, held_out=False)
        self.name = f"arithmetic_{form}"
        self.verifier = verifier_of(form)
        self._asked = {_what_is_asked(problem) for problem in self.problems}

    def may_draw(self, problem: Problem) -> bool:
        """Whether training asks the same in the same form, in whatever order of the terms."""
        asked = _what_is_asked(problem)
        return asked is not None and asked in self._asked

    def batch(self, seed: int, start: int, size: int) -> list[Problem]:
        """Problems `start` to `start + size` of the stream of shuffled epochs."""
        return stream_from_rows(self.problems, seed, start, size)


def _what_is_asked(problem: Problem) -> tuple[str, Sequence[int]] | None:
    """The form of a problem with its terms in order of size, its bounds or its target.

    None for a problem of another task.
    """
    meta = problem.meta
    if "terms" in meta:
        return "sum", tuple(sorted(meta["terms"]))
    if "bounds" in meta:
        return "between", tuple(meta["bounds"])

    # a target that is made of given numbers is a problem of Countdown
    if "target" in meta and "numbers" not in meta:
        return "parts", (meta["target"],)
    return None

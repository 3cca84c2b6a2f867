r"""Plain answers: the same words, or the same number. Linear time, and nothing is evaluated.

The answer is what the last ``\boxed{}`` holds. Without a box it is the last line of the response
(`ExactVerifier`), or the last number in it (`NumberVerifier`).
"""

from __future__ import annotations

import re
import time
from fractions import Fraction

from g2rl.tasks.grading.extract import MAX_ANSWER, final_text, last_boxed
from g2rl.types import Problem, Verdict

# 1,234.5 or -3 or 1/2, of so many digits at most that its value is cheap
_NUMBER = re.compile(
    r"[-\u2212]?(?:\d{1,3}(?:,\d{3}){1,10}|\d{1,40})(?:\.\d{1,40}|/\d{1,40})?", re.ASCII
)


class ExactVerifier:
    """Right if the answer reads like the gold; spaces at the ends and between words do not count,
    upper and lower case do."""

    bounded = True

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion."""
        start = time.perf_counter()

        # a box says where the answer is; without one it is expected at the end
        text = final_text(completion)
        answer = last_boxed(text)
        if answer is None:
            lines = text.strip().splitlines()
            answer = lines[-1].strip() if lines else ""

        if not answer or len(answer) > MAX_ANSWER:
            return Verdict(False, None, "unparsed", time.perf_counter() - start)
        correct = self.equivalent(answer, problem.answer)
        return Verdict(correct, answer, "string", time.perf_counter() - start)

    def key(self, answer: str) -> str:
        """The answer without extra spaces."""
        return " ".join(answer.split())

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two answers read the same, spaces aside."""
        return self.key(left) == self.key(right)


class NumberVerifier:
    """Right if the answer is the number that the gold is: 1,234 is 1234.0, and 0.5 is 1/2."""

    bounded = True

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion. The verdict's answer is the number as it was written."""
        start = time.perf_counter()

        # a box may hold words beside the number
        text = final_text(completion)
        boxed = last_boxed(text)
        answer = last_number(text if boxed is None else boxed)
        if answer is None:
            return Verdict(False, None, "unparsed", time.perf_counter() - start)

        # the gold may be part of a sentence too
        correct = self.equivalent(answer, last_number(problem.answer) or "")
        return Verdict(correct, answer, "number", time.perf_counter() - start)

    def key(self, answer: str) -> str:
        """The value as a reduced fraction, or the text itself if it is no number."""
        value = value_of(answer)
        return answer.strip() if value is None else str(value)

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two texts are the same number."""
        value = value_of(left)
        return value is not None and value == value_of(right)


def last_number(text: str) -> str | None:
    """The last number in a text as it is written there, or None."""
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def value_of(text: str) -> Fraction | None:
    """The exact value of a number such as 1,234.5 or 1/2; None if it is none or divides by 0."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None

    # a decimal numerator is not read with a fraction, see the pattern
    numerator, slash, denominator = text.replace(",", "").replace("\u2212", "-").partition("/")
    if slash and int(denominator) == 0:
        return None
    return Fraction(numerator) / Fraction(denominator or 1)

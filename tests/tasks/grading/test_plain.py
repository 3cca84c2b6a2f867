"""Exact and numeric answers: what counts as the same, and that hostile text is harmless."""

from __future__ import annotations

from fractions import Fraction

import pytest

from g2rl.tasks.grading.plain import ExactVerifier, NumberVerifier, last_number, value_of
from g2rl.types import Problem


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("I think it is \\boxed{blue}", "blue", True),
        ("because ...\n  navy   blue \n\n", "navy blue", True),
        ("\\boxed{Blue}", "blue", False),
        ("blue\nor not", "blue", False),
        ("\\boxed{red} blue", "blue", False),
        ("<think>\\boxed{blue}</think>\nred", "blue", False),
    ],
)
def test_exact_reads_the_box_or_the_last_line(response: str, gold: str, right: bool) -> None:
    assert ExactVerifier().grade(response, Problem("x", "", gold)).correct == right


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("so we get 1,234.50 dollars.", "1234.5", True),
        ("\\boxed{1/2}", "0.5", True),
        ("7 + 5 = 12", "12", True),
        ("12 is more than 7", "12", False),
        ("\u22123", "-3", True),
        ("3", "-3", False),
        ("\\boxed{1,23}", "123", False),
        ("0.1", "1/10", True),
        ("1/0", "1/0", False),
        ("no number", "12", False),
    ],
)
def test_numbers_are_compared_exactly(response: str, gold: str, right: bool) -> None:
    assert NumberVerifier().grade(response, Problem("x", "", gold)).correct == right


def test_keys_are_equal_exactly_for_equal_numbers() -> None:
    numbers = ["1", "1.0", "2/2", "1/3", "0.333", "-1", "1,000", "1000", "x"]
    verifier = NumberVerifier()
    for left in numbers:
        for right in numbers:
            same = verifier.key(left) == verifier.key(right)
            assert same == (verifier.equivalent(left, right) or left == right == "x")
    assert value_of("1,000") == 1000
    assert value_of("1/3") == Fraction(1, 3)
    assert value_of("1/0") is None
    assert last_number("a 1 b 2,000.5c") == "2,000.5"


@pytest.mark.parametrize(
    "text",
    ["", " ", "\\boxed{}", "\x00", "\ud800", "9" * 10**5, "1," * 10**5, "\\boxed{" * 10**4, "１２"],
)
def test_hostile_text_is_wrong_and_cheap(text: str) -> None:
    problem = Problem("x", "", "12")
    for verifier in (ExactVerifier(), NumberVerifier()):
        assert not verifier.grade(text, problem).correct

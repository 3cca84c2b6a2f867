"""Quantities: what is a unit, and when two of them can be compared."""

from __future__ import annotations

from fractions import Fraction

import pytest

from g2rl.tasks.grading.units import conversion, currency, meanings, split_unit


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        (r"5\text{ hours}", "5", "hours"),
        ("12cm", "12", "cm"),
        (r"9\pi cm^{2}", r"9\pi", "cm^{2}"),
        ("10 m/s", "10", "m/s"),
        (r"5\text{ m}/\text{s}", "5", "m/ s"),
        ("5 m", "5", "m"),
        ("72 clips", "72", "clips"),
        ("5m", "5m", ""),
        ("2x", "2x", ""),
        ("2ab", "2ab", ""),
        ("3 x", "3 x", ""),
        ("3+2 m", "3+2 m", ""),
        (r"3:30\text{ pm}", r"3:30\text{ pm}", ""),
        ("5 mod 7", "5 mod 7", ""),
        (r"\sqrt{2}", r"\sqrt{2}", ""),
    ],
)
def test_units_are_told_from_factors(text: str, value: str, unit: str) -> None:
    assert split_unit(text) == (value, unit)


@pytest.mark.parametrize(
    ("gold", "answer", "factor"),
    [
        ("hours", "minutes", Fraction(60)),
        ("cm", "m", Fraction(1, 100)),
        ("km/h", "m/s", Fraction(5, 18)),
        ("miles per hour", "mph", Fraction(1)),
        ("L", "cm^3", Fraction(1000)),
        ("sq ft", "square inches", Fraction(144)),
        ("$", "cents", Fraction(100)),
        ("pounds", "£", Fraction(1)),
        ("apples", "cm", Fraction(1)),
        ("", "cm", Fraction(1)),
    ],
)
def test_quantities_of_one_kind_are_converted(gold: str, answer: str, factor: Fraction) -> None:
    assert conversion(gold, answer) == (factor, Fraction(1))


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("cm", "cm^2"), ("$", "£"), ("hours", "miles"), ("degrees", "radians"), ("years", "days")],
)
def test_quantities_of_two_kinds_are_not(gold: str, answer: str) -> None:
    assert conversion(gold, answer) is None


def test_every_name_of_a_unit_means_something() -> None:
    for name in ("metres", "inches", "feet", "seconds", "kg", "gallons", "dollars", r"\Omega"):
        assert meanings(name), name
    assert meanings("apples") == []


def test_a_dollar_sign_is_money_only_without_a_partner() -> None:
    assert [currency(text) for text in (r"\$5", "$5", "-$5", "$5$", "5", "£5")] == [
        "$",
        "$",
        "$",
        "",
        "",
        "£",
    ]

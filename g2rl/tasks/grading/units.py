r"""Quantities: a value with a unit, e.g. ``5\text{ hours}`` or ``3 m/s``.

A unit that only one side names repeats what the question said, and is dropped by the caller. Where
both
sides name one, the quantities count: 5 hours are 300 minutes and not 5 minutes. What is not in the
table (apples, students, "square units") has no dimension and is dropped from either side.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """How many base units one of this unit is, and the powers of these, such as m^1 s^-1."""

    factor: Fraction
    powers: tuple[tuple[str, int], ...]


# base unit: {name: how many base units it is}. A name may stand under several (pounds, degrees).
_TABLE: dict[str, dict[str, str]] = {
    "m": {
        "m metre meter": "1",
        "km kilometre kilometer": "1000",
        "dm decimetre decimeter": "1/10",
        "cm centimetre centimeter": "1/100",
        "mm millimetre millimeter": "1/1000",
        "μm um micrometer micrometre micron": "1/1000000",
        "nm nanometer nanometre": "1/1000000000",
        "in inch inche": "254/10000",
        "ft foot feet": "3048/10000",
        "yd yard": "9144/10000",
        "mi mile": "1609344/1000",
    },
    "s": {
        "s sec second": "1",
        "ms millisecond": "1/1000",
        "min minute": "60",
        "h hr hour": "3600",
        "day": "86400",
        "week": "604800",
    },
    "month": {"month": "1", "year yr": "12", "decade": "120", "century centurie": "1200"},
    "kg": {
        "kg kilogram": "1",
        "g gram": "1/1000",
        "mg milligram": "1/1000000",
        "μg microgram": "1/1000000000",
        "t tonne": "1000",
        "lb pound": "45359237/100000000",
        "oz ounce": "45359237/1600000000",
    },
    "l": {
        "L l liter litre": "1",
        "ml mL milliliter millilitre": "1/1000",
        "gallon gal": "3785411784/1000000000",
        "quart": "946352946/1000000000",
        "pint": "473176473/1000000000",
        "cup": "2365882365/10000000000",
    },
    "$": {r"\$ $ dollar USD buck": "1", "cent ¢": "1/100", "dime": "1/10", "nickel": "1/20"},
    "£": {"£ GBP pound": "1", "pence penny": "1/100"},
    "€": {"€ euro EUR": "1"},
    "¥": {"¥ yen yuan RMB": "1"},
    "°": {"° degree deg": "1"},
    "rad": {"rad radian": "1"},
    "°C": {"°C degree celsiu": "1"},
    "°F": {"°F degree fahrenheit": "1"},
    "K": {"K kelvin": "1"},
    "N": {"N newton": "1", "kN": "1000"},
    "J": {"J joule": "1", "kJ": "1000", "MJ": "1000000"},
    "eV": {"eV": "1", "keV": "1000", "MeV": "1000000"},
    "W": {"W watt": "1", "kW kilowatt": "1000", "MW": "1000000"},
    "V": {"V volt": "1", "mV": "1/1000", "kV": "1000"},
    "A": {"A amp ampere": "1", "mA": "1/1000"},
    "Ω": {r"\Omega Ω ohm": "1", "kΩ": "1000"},
    "F": {"F farad": "1"},
    "C": {"C coulomb": "1"},
    "T": {"T tesla": "1"},
    "Hz": {"Hz hertz": "1", "kHz": "1000", "MHz": "1000000"},
    "Pa": {"Pa pascal": "1", "kPa": "1000", "MPa": "1000000", "atm": "101325"},
    "mol": {"mol mole": "1"},
    "bit": {"bit": "1", "byte": "8"},
}


def _names() -> dict[str, list[tuple[str, Fraction]]]:
    """Every name of a unit with the (base unit, factor) pairs that it may mean."""
    meanings: dict[str, list[tuple[str, Fraction]]] = {}
    for base, units in _TABLE.items():
        for names, factor in units.items():
            for name in names.split():
                meanings.setdefault(name, []).append((base, Fraction(factor)))
    return meanings


_MEANINGS = _names()
_SPEEDS = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "fps": "ft/s", "rpm": ""}
# a factor of a unit: perhaps "square", a name, perhaps a power
_NAME = "|".join(sorted((re.escape(name) for name in _MEANINGS), key=len, reverse=True))
_FACTOR = re.compile(
    rf"(?P<power>square|cubic|sq\.?|cu\.?)?\s*(?P<name>{_NAME})s?\.?(?![A-Za-z])"
    r"(?:\s*\^?\s*\{?\s*(?P<exponent>-?[1-4])\s*\}?)?"
)
_PRODUCT = re.compile(r"\s*(?:(?P<over>/|\bper\b)|\\cdot|\\times|\*|·|-)?\s*")

# how a unit may stand at the end of an answer: in a text command, or plainly behind a space
_COMMAND = r"\\(?:text|mathrm)\s?\{[^{}]{0,60}\}(?:\s?\^\s?\{?\s?-?\d\s?\}?)?"
_IN_COMMAND = re.compile(
    rf"(?P<value>.*[\d}})\]a-zA-Z])\s?(?P<unit>{_COMMAND}(?:\s?(?:/|\\cdot)?\s?{_COMMAND}){{0,3}})\s?$",
    re.DOTALL,
)
_PLAIN = re.compile(
    r"(?P<value>-?(?:[\d.,/ ]|\\frac\{[^{}]{1,40}\}\{[^{}]{1,40}\}|\\sqrt\{[^{}]{1,40}\}|\\pi ?)"
    r"{1,60}?(?<![,/ ]))(?P<gap>[ ~-]?)"
    r"(?P<unit>(?:\\Omega|[A-Za-zμΩ¢€£])[A-Za-zμΩ¢ ./^{}\d\\*·-]{0,40})"
)
_NOT_A_UNIT = re.compile(
    r"(?:[ap]\.?m\.?|mod|sqrt|sin|cos|tan|log|ln|to|times|over|if|for|base|pi|e|i|x|y|z|n|k)\b"
    r"|\\(?!Omega|cdot)",
    re.I,
)
_WORDS = re.compile(r"[A-Za-z][A-Za-z.]+(?: [A-Za-z.]+){0,4}(?:\s?\^\s?\{?\d\}?)?")
_TEXT = re.compile(r"\\(?:text|mathrm)\s?\{([^{}]*)\}")
_TIME_OF_DAY = re.compile(r"\s*[ap]\.?\s?m\b", re.I)
_CURRENCY = re.compile(
    r"\s*-?\s*(?:\\?(?P<sign>[$£€¥])|(?P<pounds>\\pounds)|(?P<code>USD|EUR|GBP))\s*(?=-?[\d.])"
)


def split_unit(text: str) -> tuple[str, str]:
    """The value of an answer and the unit behind it, e.g. ("5", "hours"); ("x", "") without one."""
    # in a text command anything is a unit, but for a time of day
    match = _IN_COMMAND.fullmatch(text)
    if match and not _TIME_OF_DAY.match(_TEXT.sub(r"\1", match["unit"])):
        return match["value"].strip(), _TEXT.sub(r" \1", match["unit"]).strip()

    # plainly, behind a number: a known unit, or words
    match = _PLAIN.fullmatch(text)
    if not match or _NOT_A_UNIT.match(match["unit"]):
        return text, ""

    # one letter without a space is a factor: 5m may be 5 times m
    unit = match["unit"].strip()
    is_known = bool(meanings(unit))
    is_single = len(re.match(r"[A-Za-z]*", unit).group()) == 1  # type: ignore[union-attr]
    is_words = bool(_WORDS.fullmatch(unit)) and bool(re.search(r"[A-Za-z]{4}", unit))
    if (is_known and not (is_single and not match["gap"])) or is_words:
        return match["value"].strip(), unit
    return text, ""


def currency(answer: str) -> str:
    """The currency in front of an amount, e.g. "$" of ``\\$5``; empty without one.

    A dollar sign that delimits a formula has a partner, and is none.
    """
    match = _CURRENCY.match(answer)
    if not match or (match["sign"] == "$" and not _is_amount(answer)):
        return ""
    return match["sign"] or match["code"] or "£"


def _is_amount(answer: str) -> bool:
    """Whether the dollar sign at the beginning is money and not the delimiter of a formula."""
    return answer.lstrip(" -").startswith("\\$") or answer.count("$") % 2 == 1


def meanings(unit: str) -> list[Unit]:
    """What a unit may mean, e.g. of "km/h" one unit; empty if it is not in the table."""
    text = _SPEEDS.get(unit.strip(), unit.strip().rstrip("."))
    found: list[Unit] = [Unit(Fraction(1), ())]
    place, over = 0, False
    while place < len(text):
        # what divides this factor from the one before it
        joint = _PRODUCT.match(text, place)
        assert joint is not None  # it may be empty
        over = over or bool(joint["over"])
        factor = _FACTOR.match(text, joint.end())
        if not factor:
            return []
        found = [
            _times(unit, factor, meaning, over)
            for unit in found
            for meaning in _MEANINGS[factor["name"]]
        ]
        place = factor.end()
    return [unit for unit in found if unit.powers]


def _times(unit: Unit, factor: re.Match[str], meaning: tuple[str, Fraction], over: bool) -> Unit:
    """A unit times (or divided by) one more factor."""
    # the power, which may stand in front ("square") or behind
    base, size = meaning
    exponent = int(factor["exponent"] or 1)
    if factor["power"]:
        exponent = 3 if factor["power"].startswith("cu") else 2
    if over:
        exponent = -exponent

    # a litre is a cubic decimetre
    if base == "l":
        base, size, exponent = "m", size / 1000, 3 * exponent
        size_power = size ** (exponent // 3)
    else:
        size_power = size**exponent
    powers = dict(unit.powers)
    powers[base] = powers.get(base, 0) + exponent
    return Unit(unit.factor * size_power, tuple(sorted((b, e) for b, e in powers.items() if e)))


def conversion(gold_unit: str, answer_unit: str) -> tuple[Fraction, Fraction] | None:
    """Factors under which (gold, answer) are compared; None for quantities of two kinds.

    A unit without a dimension, or none at all, is dropped from both.
    """
    # "degrees" may mean several units: one of them has to fit
    golds, answers = meanings(gold_unit), meanings(answer_unit)
    if not golds or not answers:
        return Fraction(1), Fraction(1)
    for gold in golds:
        for answer in answers:
            if gold.powers == answer.powers:
                return gold.factor / answer.factor, Fraction(1)
    return None

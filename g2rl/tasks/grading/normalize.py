r"""Bring an answer into one spelling before anything is compared, in linear time.

`normalize` gives LaTeX that a parser can read; `key` gives the form under which equal strings mean
equal answers. Meaning is never changed, except by these conventions of mathematics grading:

- Degrees, currencies and units repeat what the question said, and are dropped:
  ``10\text{ cm}^2`` is 10.
- A percent sign is dropped here. `has_percent` tells that it was there, and the grader reads 10\%
  as either 10 or 1/10.
- ``1,000`` is one number when the whole answer can be read so, and a list otherwise.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from g2rl.tasks.grading.rewrites import (
    undecorated,
    with_braced_exponents,
    with_fractions,
    with_functions,
    with_operators,
    with_radians,
    with_round_brackets,
    without_clause,
    without_lead,
    without_set_builder,
)
from g2rl.tasks.grading.spelling import ascii_spelling
from g2rl.tasks.grading.units import currency, split_unit

_DOUBLED_BACKSLASH = re.compile(r"\\\\(?=[a-zA-Z]{2})(?<!\\\\\\\\)")  # before a command
_REWRITES = (
    # sizes of brackets, styles of display
    (r"\\(?:left|right|mleft|mright|[bB]igg?[lrm]?)(?![a-zA-Z])\s?\.?(?=[\s()\[\]|\\.]|$)", ""),
    (r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits)(?![a-zA-Z])", ""),
    # variants of fractions and matrices
    (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\[bBpv]?smallmatrix", "pmatrix"),
    # thin spaces between thousands, negative spaces, invisible boxes; other spaces become one
    (r"(?<=\d),?\s?\\[!,]\s?(?=\d{3}(?!\d))|\\!|\\h?phantom(?![a-zA-Z])(?:\{[^{}]{0,20}\})?", ""),
    (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-zA-Z])|\\quad(?=x)", " "),
    # {,} is TeX for a thousands separator, for a decimal comma, or for a comma
    (r"(?<=\d)\s?\{\s?,\s?\}\s?(?=\d{3}(?!\d))", ""),
    (r"(?<=\d)\s?\{\s?,\s?\}\s?(?=\d)", "."),
    (r"\{\s?,\s?\}", ","),
    # degrees
    (r"(?:\^\s?\{?\s?\\?(?:circ|degree|prime\\circ)\s?\}?|\\degree)(?![a-zA-Z])", ""),
    # relations
    (r"\\(?:le|leqslant)(?![a-zA-Z])|<=", r"\\leq "),
    (r"\\(?:ge|geqslant)(?![a-zA-Z])|>=", r"\\geq "),
    (r"\\ne(?![a-zA-Z])|!=", r"\\neq "),
    (r"\\lt(?![a-zA-Z])", "<"),
    (r"\\gt(?![a-zA-Z])", ">"),
    # one command for text
    (
        r"\\(?:text|textnormal|mathrm|mathit|mbox|textrm|textit|mathbf|textbf|mathsf|operatorname"
        r"|rm|bf)(?![a-zA-Z])(?=\s?\{)",
        r"\\text",
    ),
    # \frac12, \frac\pi2, \frac ab; then "about" at the beginning
    (r"\\frac\s?(\d)\s?(\d)", r"\\frac{\1}{\2}"),
    (r"\\frac\s?(\\pi|\\theta|[a-zA-Z])\s?(\d|[a-zA-Z])(?![a-zA-Z])", r"\\frac{\1}{\2}"),
    (r"^\s?(?:\\approx|=)", ""),
    # \frac1{2}, \frac{1}2, \frac {1}{2}
    (r"\\frac\s?(\d)\s?\{", r"\\frac{\1}{"),
    (r"\\frac\s?\{(\d{1,40})\}\s?(\d)", r"\\frac{\1}{\2}"),
    (r"\\frac\s+\{", r"\\frac{"),
    # \sqrt2, sqrt(2), √2
    (r"\\sqrt\s?([a-zA-Z0-9])", r"\\sqrt{\1}"),
    (r"(?<![\\a-zA-Z])(?:sqrt|√)\s?\(([^()]{1,80})\)", r"\\sqrt{\1}"),
    (r"√\s?(\d{1,40}|[a-zA-Z])", r"\\sqrt{\1}"),
    # currencies, and the ending of an ordinal (5th)
    (r"\\\$|\\?£|\\?€|¥", ""),
    (r"(?<=\d)\s?(?:\^\s?\{?\s?)?\\text\s?\{\s?(?:st|nd|rd|th)\s?\}\s?\}?", ""),
    (r"(?<=\d)(?:st|nd|rd|th)\b", ""),
    # times of day
    (r"(\d:\d\d)\s?(?:\\text\s?\{\s?)?[Aa]\.?\s?[Mm]\.?\s?\}?$", r"\1 \\text{AM}"),
    (r"(\d:\d\d)\s?(?:\\text\s?\{\s?)?[Pp]\.?\s?[Mm]\.?\s?\}?$", r"\1 \\text{PM}"),
    # degrees of temperature
    (r"\^\s?\{?\s?\\circ\s?\}?\s?(?:\\text\s?\{\s?)?C(?![a-zA-Z])\s?\}?$", r"\\text{ celsius}"),
    (r"\^\s?\{?\s?\\circ\s?\}?\s?(?:\\text\s?\{\s?)?F(?![a-zA-Z])\s?\}?$", r"\\text{ fahrenheit}"),
    # marks above the name of a segment, bold symbols
    (r"\\(?:overline|overrightarrow|widehat)\s?\{\s?([A-Z]{2,4})\s?\}", r"\1"),
    (r"\\(?:boldsymbol|bm)(?=\s?\{)", ""),
    # brackets of vectors, the empty set
    (r"\\langle(?![a-zA-Z])", "("),
    (r"\\rangle(?![a-zA-Z])", ")"),
    (r"\\varnothing|\\\{\s?\\\}", r"\\emptyset"),
    # separators of a list
    (r";", ","),
    (r",\s?,", ","),
    # plain names of constants, powers as in Python, .5
    (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
    (r"(?<![\\a-zA-Z])(?:infinity|inf|infty|oo)(?![a-zA-Z])", r"\\infty "),
    (r"\*\*", "^"),
    # combinations as school books write them
    (
        r"(?:\{\}\s?)?[\^_]\s?\{?\s?(\d{1,4})\s?\}?\s?C\s?_\s?\{?\s?(\d{1,4})\s?\}?",
        r"\\binom{\1}{\2}",
    ),
    (r"^\s?(\d{1,9})\s?\\choose\s?(\d{1,9})\s?$", r"\\binom{\1}{\2}"),
    (r"\\bmod(?![a-zA-Z])", r"\\mod "),
    (r"\{([^{}]{1,60})\\choose(?![a-zA-Z])([^{}]{1,60})\}", r"\\binom{\1}{\2}"),
    # 3e8 and 3 x 10^8; a numeral with its base: (101)_2, 101_{two}
    (
        r"(?<![A-Za-z\d.\\])(\d{1,20}(?:\.\d{1,20})?)[eE]([+-]?\d{1,3})(?![\d.A-Za-z])",
        r"\1\\times 10^{\2}",
    ),
    (r"(?<=\d)\s?[xX]\s?(?=10\s?\^)", r"\\times "),
    (r"^\s?\(([0-9A-Z]{1,60})\)\s?_", r"\1_"),
    (r"(?<=[0-9A-Z])_\s?\{\s?(?:\\text\s?\{)?\s?\(?(\d{1,2})\)?\s?\}?\s?\}", r"_{\1}"),
    (r"\+\s?/\s?-|\+-(?!\s?\d{0,9}\.?\d{0,9}i)", r"\\pm "),
    (r"(?<![0-9.])\.(?=\d)", "0."),
)
_COMPILED_REWRITES = [(re.compile(pattern), replacement) for pattern, replacement in _REWRITES]

_INEQUALITY = re.compile(r"[<>]|\\(?:leq?|geq?|leqslant|geqslant|lt|gt)(?![a-zA-Z])")
# words in a row, of which "and" and "or" are a part
_SENTENCE = re.compile(r"(?<![\\a-zA-Z{])[A-Za-z]{3,30} [A-Za-z ]{0,60}\b(?:and|or)\b [A-Za-z]")
_OR = re.compile(
    r"\\text\s?\{\s?,?\s?or\s?\}|(?<![a-zA-Z\\{]),?\s?\bor\b(?![a-zA-Z}])|\\vee(?![a-zA-Z])"
)
_AND = re.compile(
    r"\\text\s?\{\s?,?\s?and\s?\}|(?<![a-zA-Z\\{]),?\s?\band\b(?![a-zA-Z}])|\\wedge(?![a-zA-Z])"
)
_PERCENT = re.compile(r"\s?(?:\\?%|\\text\s?\{\s?(?:percent|%|\\%)\s?\}|\bpercent(?:age)?\b)")
_THOUSANDS = re.compile(r"^(-?\s?[1-9]\d{0,2})((?:,\s?\d{3})+)(?![\d,])")  # 1,000,000
_SPACED_THOUSANDS = re.compile(r"^-?\d{1,3}(?: \d{3})+(?:\.\d+)?$")  # 1 000 000.5
_GOES_ON = re.compile(r"\d\.\d+\s?\.\.\.$")  # a decimal that repeats
_FACTORIAL = re.compile(r"[A-Za-z0-9)}]!$")
_EXCLAMATION = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{3,}!$")  # a word that is exclaimed
_TEXT = re.compile(r"\\text\s?\{([^{}]{0,200})\}")
_WHOLE_TEXT = re.compile(r"^\\text\s?\{([^{}]{1,200})\}$")
_WORDS = re.compile(r"[A-Za-z]{2,40}(?:[ ,']{1,3}[A-Za-z]{2,40}){0,20}")
_SHORT_WORDS = {"yes", "no", "odd", "all"}  # words of fewer than four letters that are answers
_SINGLE = re.compile(r"\(([A-Za-z])\)|\[([^\[\](),]*)\]")  # one letter or value in brackets


PHRASES = {
    "all real numbers": r"\mathbb{R}",
    "all reals": r"\mathbb{R}",
    "no solution": r"\emptyset",
    "no solutions": r"\emptyset",
    "empty set": r"\emptyset",
    "the empty set": r"\emptyset",
}
"""Words that are the name of a set."""


class Answer(NamedTuple):
    """An answer in one spelling, and what was taken away from it."""

    text: str
    """The value, as LaTeX that a parser can read."""
    unit: str
    """The unit behind it, or the currency in front of it."""
    clause: str
    """The reason or condition behind it: "since x > 0"."""


@lru_cache(maxsize=4096)
def read_answer(answer: str) -> Answer:
    """Take an answer apart into its value in one spelling, its unit, and its clause."""
    money = currency(answer.strip())
    text = ascii_spelling(answer)
    if "matrix" in text or "cases" in text or "array" in text:
        text = text.replace("\\\\\\", "\\\\ \\")  # the end of a row is set apart from a command
    text = _strip_delimiters(text)

    # a doubled backslash before a command is a slip, except where two backslashes end a row
    if not ("matrix" in text or "cases" in text or "array" in text or "align" in text):
        text = _DOUBLED_BACKSLASH.sub(r"\\", text)

    # words and ornaments around the value
    text, clause = without_clause(without_lead(undecorated(text)))
    text = _respelled(text)

    # what stands around the value
    text = _without_brackets(_strip_delimiters(_PERCENT.sub("", text)))
    value, unit = split_unit(text)
    value = PHRASES.get(as_words(value) or "", value)
    return Answer(_without_thousands(_without_brackets(value)), money or unit, clause)


def _respelled(text: str) -> str:
    """The text with one spelling for everything that has several."""
    text = with_radians(with_operators(_with_logic(text)))
    for pattern, replacement in _COMPILED_REWRITES:
        text = pattern.sub(replacement, text)
    text = with_braced_exponents(with_fractions(with_functions(text)))
    return without_set_builder(with_round_brackets(text))


def _with_logic(text: str) -> str:
    r"""The text with "or" and "and" between inequalities as \\lor and \\land, else as commas."""
    # between values they divide a list, but not in a sentence
    if not _INEQUALITY.search(text):
        return text if _SENTENCE.search(text) else _OR.sub(",", _AND.sub(",", text))

    # some write a union of conditions
    if all(_INEQUALITY.search(piece) for piece in text.split(r"\cup")):
        text = text.replace(r"\cup", r" \lor ")
    text = _OR.sub(r" \\lor ", text)
    return _AND.sub(r" \\land ", text)


def normalize(answer: str) -> str:
    """The value of an answer in one spelling, still LaTeX and still readable by a parser."""
    return read_answer(answer).text


def has_percent(answer: str) -> bool:
    """Whether the answer is written as a percentage."""
    return bool(_PERCENT.search(unicodedata.normalize("NFKC", answer)))


def key(answer: str) -> str:
    """The form in which equal strings are equal answers: normalised, words without case, no spaces.

    A space between digits stays, because "3 4" is not 34.
    """
    text = normalize(answer)
    words = as_words(text)
    if words is not None:
        return words

    # text commands, and brackets around a single value, say nothing
    text = _TEXT.sub(r"\1", text).strip()
    if single := _SINGLE.fullmatch(text):
        text = single[1] or single[2]

    # neither do spaces, nor braces around a single character: x_{1} is x_1
    text = re.sub(r"(?<!\d)\s|\s(?!\d)", "", text)
    text = re.sub(r"_\{(\w)\}", r"_\1", text)
    return re.sub(r"\^\{(\w)\}", r"^\1", text)


def as_words(normalized: str) -> str | None:
    r"""The lower-case words when an answer is text ("\text{odd}", "Yes"), else None.

    Bare letters count as text only from four letters on, or when they are a common short answer:
    ``abc`` may be a product of variables. A single letter never does: it may be one.
    """
    text = normalized
    whole = _WHOLE_TEXT.match(normalized)
    if whole:
        text = whole.group(1)
    text = text.strip(" .")

    # the author says that it is text, or it reads like text
    is_text = whole is not None and re.fullmatch(r"[A-Za-z][A-Za-z ,'.-]*[A-Za-z]", text)
    if not is_text:
        is_short = len(text) < 4 and text.casefold() not in _SHORT_WORDS
        if is_short or not _WORDS.fullmatch(text):
            return None
    return " ".join(text.casefold().split())


def _strip_delimiters(text: str) -> str:
    """The text without math delimiters, quotes, outer spaces and trailing punctuation."""
    text = re.sub(r"(?<!\\)\$|\\[()]|(?<!\\)\\[\[\]]", " ", text)

    # a single apostrophe may be a prime, two are quotes
    outer = ' "`'
    if text.count("'") > 1:
        outer = " \"'`"
    text = re.sub(r"\s+", " ", text).strip(outer)

    # punctuation and single backslashes at the end; "\\" ends the row of a matrix
    while (
        text
        and not _GOES_ON.search(text[-30:])
        and (text[-1] in ".,;:!" or (text[-1] == "\\" and not text.endswith("\\\\")))
    ):
        if text[-1] == "!" and _FACTORIAL.search(text[-3:]) and not _EXCLAMATION.search(text[-40:]):
            break
        text = text[:-1].rstrip()
    return text.lstrip()


def _without_brackets(text: str) -> str:
    """The text without square brackets around a single value."""
    single = _SINGLE.fullmatch(text)
    if single and single[2]:
        return single[2].strip()
    return text


def _without_thousands(text: str) -> str:
    """The text without thousands separators if it, or what follows its only "=", is one number."""
    if _SPACED_THOUSANDS.match(text):
        return text.replace(" ", "")

    # look behind "x ="
    head, equals, value = "", "", text
    if text.count("=") == 1:
        head, equals, value = text.rpartition("=")
    value = value.strip()

    # a further separator makes it a list
    match = _THOUSANDS.match(value)
    if match and not re.search(r"[,;]", value[match.end() :]):
        value = re.sub(r"[,\s]", "", match.group()) + value[match.end() :]
    return f"{head}{equals}{value}"

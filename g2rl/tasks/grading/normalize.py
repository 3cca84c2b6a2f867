r"""Bring an answer into one spelling before anything is compared: strings in, strings out, linear
time.

`normalize` gives LaTeX that a parser can read; `key` gives the form under which equal strings mean
equal answers. Meaning is never changed, except by these conventions of mathematics grading:

- degrees, currencies and units say what the question said already and are dropped: ``10\text{
cm}^2`` is 10;
- a percent sign is dropped here, `has_percent` tells that it was there, and the grader reads 10\%
  as either 10 or 1/10;
- ``1,000`` is one number when the whole answer can be read so, and a list otherwise.
"""

from __future__ import annotations

import re
import unicodedata

_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUB = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SYMBOLS = {
    "−": "-",
    "–": "-",
    "—": "-",
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "∙": r"\cdot ",
    "÷": "/",
    "⁄": "/",
    "∕": "/",
    "π": r"\pi ",
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "γ": r"\gamma ",
    "λ": r"\lambda ",
    "φ": r"\phi ",
    "ω": r"\omega ",
    "∞": r"\infty ",
    "≤": r"\leq ",
    "≥": r"\geq ",
    "⩽": r"\leq ",
    "⩾": r"\geq ",
    "≠": r"\neq ",
    "≈": r"\approx ",
    "±": r"\pm ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "°": r"^\circ ",
    "′": "'",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "、": ",",
    "。": ".",
    "\u200b": "",
    "\ufeff": "",
    "\u2061": "",
    "½": r"\frac{1}{2}",
    "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
}
_SYMBOL_TABLE = str.maketrans(_SYMBOLS)
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (
            r"\\\\(?=[a-zA-Z]{2})(?<!\\\\\\\\)",
            r"\\",
        ),  # doubled command backslashes outside matrices
        (r"\\(?:left|right|mleft|mright|[bB]igg?[lrm]?)(?![a-zA-Z])\s?\.?(?=[\s()\[\]|\\.]|$)", ""),
        (r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits)(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[bBpv]?smallmatrix", "pmatrix"),
        (
            r"(?<=\d),?\s?\\[!,]\s?(?=\d{3}(?!\d))|\\!|\\h?phantom(?![a-zA-Z])(?:\{[^{}]{0,20}\})?",
            "",
        ),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad(?![a-zA-Z])|\\quad(?=x)", " "),
        (r"(?<=\d)\s?\{\s?,\s?\}\s?(?=\d{3}(?!\d))", ""),  # TeX for a thousands separator ...
        (r"(?<=\d)\s?\{\s?,\s?\}\s?(?=\d)", "."),  # ... and for a decimal comma
        (r"\{\s?,\s?\}", ","),
        (r"(?:\^\s?\{?\s?\\?(?:circ|degree|prime\\circ)\s?\}?|\\degree)(?![a-zA-Z])", ""),
        (r"\\(?:le|leqslant)(?![a-zA-Z])|<=", r"\\leq "),
        (r"\\(?:ge|geqslant)(?![a-zA-Z])|>=", r"\\geq "),
        (r"\\ne(?![a-zA-Z])|!=", r"\\neq "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (
            r"\\(?:text|textnormal|mathrm|mathit|mbox|textrm|textit|mathbf|textbf|mathsf|operatorname|rm|bf)"
            r"(?![a-zA-Z])(?=\s?\{)",
            r"\\text",
        ),
        (r"\\frac\s?(\d)\s?(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s?(\\pi|\\theta|[a-zA-Z])\s?(\d|[a-zA-Z])(?![a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"^\s?\\approx", ""),
        (r"\\frac\s?(\d)\s?\{", r"\\frac{\1}{"),
        (r"\\frac\s?\{(\d{1,40})\}\s?(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s+\{", r"\\frac{"),
        (r"\\sqrt\s?([a-zA-Z0-9])", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])(?:sqrt|√)\s?\(([^()]{1,80})\)", r"\\sqrt{\1}"),
        (r"√\s?(\d{1,40}|[a-zA-Z])", r"\\sqrt{\1}"),
        (r"\\\$|\\?£|\\?€|¥", ""),
        (r"(?<=\d)\s?(?:\^\s?\{?\s?)?\\text\s?\{\s?(?:st|nd|rd|th)\s?\}\s?\}?", ""),
        (r"\\(?:overline|overrightarrow|widehat)\s?\{\s?([A-Z]{2,4})\s?\}", r"\1"),
        (r"\\(?:boldsymbol|bm)(?=\s?\{)", ""),
        (r"\\langle(?![a-zA-Z])", "("),
        (r"\\rangle(?![a-zA-Z])", ")"),
        (r"\\varnothing|\\\{\s?\\\}", r"\\emptyset"),
        (r"\\text\s?\{\s?,?\s?(?:and|or)\s?\}", ","),
        (r"(?<![a-zA-Z\\]),?\s?\b(?:and|or)\b(?![a-zA-Z])", ","),
        (r";", ","),
        (r",\s?,", ","),
        (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        (r"(?<![\\a-zA-Z])(?:infinity|inf|infty|oo)(?![a-zA-Z])", r"\\infty "),
        (r"\*\*", "^"),
        (r"(?<![0-9.])\.(?=\d)", "0."),
    )
]
_PERCENT = re.compile(r"\s?(?:\\?%|\\text\s?\{\s?(?:percent|%|\\%)\s?\}|\bpercent(?:age)?\b)")
_UNIT = re.compile(
    r"(?<=[\d})\]])\s?\\text\s?\{(?!\s?[ap]\.?m)[^{}]{0,60}\}(?:\s?\^\s?\{?\d\}?)?\s?$", re.I
)
_WORD_UNIT = re.compile(
    r"^(-?[\d.,/]{1,60}|-?\d{0,20}\\frac\{\d{1,40}\}\{\d{1,40}\})\s?"
    r"([A-Za-z][A-Za-z .]{1,40})(?:\s?\^\s?\{?\d\}?)?$"
)
_NOT_A_UNIT = re.compile(
    r"^(?:[ap]\.?m\.?|mod|sqrt|sin|cos|tan|log|ln|to|times|over|if|for|base)\b", re.I
)
_THOUSANDS = re.compile(r"^(-?\s?[1-9]\d{0,2})((?:,\s?\d{3})+)(?![\d,])")
_SPACED_THOUSANDS = re.compile(r"^-?\d{1,3}(?: \d{3})+(?:\.\d+)?$")
_TEXT = re.compile(r"\\text\s?\{([^{}]{0,200})\}")
_WORDS = re.compile(r"[A-Za-z]{2,40}(?:[ ,']{1,3}[A-Za-z]{2,40}){0,20}")
_SHORT_WORDS = {"yes", "no", "odd", "all"}
_SINGLE = re.compile(r"\(([A-Za-z])\)|\[([^\[\](),]*)\]")
_WHOLE_TEXT = re.compile(r"^\\text\s?\{([^{}]{1,200})\}$")


def normalize(answer: str) -> str:
    """One spelling of an answer, still LaTeX and still readable by a parser."""
    text = _unicode(answer)
    text = text.replace("\\\\\\", "\\\\ \\") if "matrix" in text else text
    text = _strip_delimiters(text)
    for position, (pattern, replacement) in enumerate(_REWRITES):
        if position == 0 and ("matrix" in text or "cases" in text or "array" in text):
            continue  # there, two backslashes end a row
        text = pattern.sub(replacement, text)
    text = _strip_delimiters(_PERCENT.sub("", text))
    return _numbers(_units(text))


def has_percent(answer: str) -> bool:
    """Whether the answer is written as a percentage."""
    return bool(_PERCENT.search(unicodedata.normalize("NFKC", answer)))


def key(answer: str) -> str:
    """The form in which equal strings are equal answers: normalised, no spaces; words without
    case."""
    text = normalize(answer)
    words = as_words(text)
    if words is not None:
        return words
    text = _TEXT.sub(r"\1", text).strip()
    if single := _SINGLE.fullmatch(text):
        text = single[1] or single[2]
    text = re.sub(r"(?<!\d)\s|\s(?!\d)", "", text)  # "3 4" is not 34
    return re.sub(r"\^\{(\w)\}", r"^\1", re.sub(r"_\{(\w)\}", r"_\1", text))


def as_words(normalized: str) -> str | None:
    r"""The lower-case words when an answer is text ("\text{odd}", "Yes"), else None.

    Bare letters count as text only from four letters on, or when they are a common short answer:
    ``abc`` may be a product of variables. A single letter never does: it may be one.
    """
    whole = _WHOLE_TEXT.match(normalized)
    text = (whole.group(1) if whole else normalized).strip(" .")
    if whole and re.fullmatch(r"[A-Za-z][A-Za-z ,'.-]*[A-Za-z]", text):
        return " ".join(text.casefold().split())
    if not _WORDS.fullmatch(text) or (len(text) < 4 and text.casefold() not in _SHORT_WORDS):
        return None
    return " ".join(text.casefold().split())


def _unicode(text: str) -> str:
    """ASCII spellings for the characters that models write instead of LaTeX."""
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: "^{" + m.group().translate(_SUPER) + "}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m.group().translate(_SUB) + "}", text)
    return unicodedata.normalize("NFKC", text.translate(_SYMBOL_TABLE)).translate(_SYMBOL_TABLE)


def _strip_delimiters(text: str) -> str:
    """Without math delimiters, quotes, outer spaces and trailing punctuation."""
    text = re.sub(r"(?<!\\)\$|\\[()]|(?<!\\)\\[\[\]]", " ", text)
    text = re.sub(r"\s+", " ", text).strip(" \"'`" if text.count("'") > 1 else ' "`')
    while text and (text[-1] in ".,;:!" or (text[-1] == "\\" and not text.endswith("\\\\"))):
        if text[-1] == "!" and len(text) > 1 and (text[-2].isalnum() or text[-2] in ")}"):
            break  # a factorial
        text = text[:-1].rstrip()
    return text.lstrip()


def _units(text: str) -> str:
    """Without a unit behind a number or a formula, and without brackets around a single value."""
    if (single := _SINGLE.fullmatch(text)) and single[2]:
        text = single[2].strip()
    shorter = _UNIT.sub("", text)
    if shorter:
        text = shorter.strip()
    words = _WORD_UNIT.match(text)
    if words and not _NOT_A_UNIT.match(words.group(2)):
        return words.group(1)
    return text


def _numbers(text: str) -> str:
    """Thousands separators removed where the answer can be read as one number."""
    if _SPACED_THOUSANDS.match(text):
        return text.replace(" ", "")
    head, equals, value = text.rpartition("=") if text.count("=") == 1 else ("", "", text)
    value = value.strip()
    match = _THOUSANDS.match(value)
    if match and not re.search(r"[,;]", value[match.end() :]):
        value = re.sub(r"[,\s]", "", match.group()) + value[match.end() :]
    return f"{head}{equals}{value}"

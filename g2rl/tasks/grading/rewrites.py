r"""Rewrite what models write instead of plain LaTeX: functions by name, decoration, decimals.

Each function takes one spelling to another of the same meaning, in linear time; `normalize` applies
them in order.
"""

from __future__ import annotations

import re

from g2rl.tasks.grading.structure import closing_place, simple_groups

# decoration that says nothing
_DECORATION = re.compile(
    r"\\(?:tag|label|hspace|vspace|color)\*?\s?\{[^{}]{0,60}\}"
    r"|\\(?:checkmark|blacksquare|square|qed|Box|noindent|nonumber|newline|hfill)(?![a-zA-Z])"
    r"|[✓✔✅■□]"
)
_COLOURED = re.compile(r"\\(?:textcolor|colorbox)\s?\{[^{}]{0,40}\}(?=\s?\{)")
_FONT = re.compile(
    r"\\(?:rm|bf|it|sf|tt|cal|mathbin|mathop|ensuremath|underline|mathstrut)(?![a-zA-Z])\s?"
)
# an environment around lines of one computation
_ALIGNED = re.compile(
    r"\\(?:begin|end)\s?\{(?:aligned|align|gathered|gather|split|equation|displaymath|math)\*?\}"
)
# words in front of the condition of a case
_CONDITION_WORD = re.compile(
    r",?\s?\\(?:text|mathrm|textrm|mbox)\s?\{\s?,?\s?(?:if|for|when|where)?\s?\}|,(?=\s?(?:&|\\\\))"
)
# a quantity that is written as text: \text{12 hours}; a line that ends in front of a single letter
_NUMBER_IN_TEXT = re.compile(r"^\s?\\text\s?\{(\s?-?\d[^{}]{0,60})\}\s?$")
_NEW_LINE = re.compile(r"\\\\(?=\s?[a-zA-Z](?![a-zA-Z]))")
_ROW_SPACING = re.compile(r"\\\\\s?\[\s?-?[\d.]{1,6}\s?(?:pt|ex|em|cm|mm|in)\s?\]")

# words in front of the value: "\text{The answer is }", "Answer:"
_LEAD = re.compile(
    r"^\s*(?:\\text\s?\{[^{}]{0,80}?(?:\b(?:is|are|equals|answer|total|about|approximately)\b|[:=])\s?:?\s?\}"
    r"|(?:(?:the|final|correct|exact)\s){0,3}(?:answer|result|value|solution)s?\s?(?:is|are|=|:)\s?:?)\s*",
    re.IGNORECASE,
)
# words behind it: "\text{ since } x>0", "for all x"
_CLAUSE = re.compile(
    r"\s*(?:,\s?)?(?:\\text\s?\{\s*\(?(?P<word>since|because|as|for|where|when|if|with|at|provided|by|so)\b"
    r"|(?<![a-zA-Z\\])(?P<plain>since|because|for all|for every|for any|where|provided)\b"
    r"|\\(?:forall|pmod)(?![a-zA-Z])"
    r"|,\s?[a-zA-Z]\s?\\in\s?\\(?:mathbb|Z|N)(?![a-zA-Z])).*$",
    re.DOTALL,
)

# functions that are written without a backslash
_FUNCTIONS = (
    "arcsin|arccos|arctan|arccot|asin|acos|atan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc"
    "|ln|log|lg|exp|gcd|lcm"
)
_LONG_NAMES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_PLAIN_FUNCTION = re.compile(
    rf"(?<![\\a-zA-Z])({_FUNCTIONS})(?=\s?[\\({{\d^_\[]|\s[a-zA-Z](?![a-zA-Z]))"
)
_BRACKETED_FUNCTION = re.compile(r"(?<![\\a-zA-Z])(max|min|det|abs)(?=\s?\()")
_OPERATOR = re.compile(rf"\\operatorname\*?\s?\{{\s?({_FUNCTIONS}|max|min|det)\s?\}}")
_ROOT = re.compile(r"(?<![\\a-zA-Z])(sqrt|cbrt|√|∛)\s?(?=\()")
_EXPONENT = re.compile(r"\^\s?\(")
_LOG_E = re.compile(r"\\log\s?_\s?(?:e(?![a-zA-Z])|\{\s?e\s?\})")
_TEXT_COMMAND = re.compile(r"(\\text\s?\{[^{}]*\})")

# decimals that repeat
_OVERLINE = re.compile(
    r"(?<![\d.])(\d{0,15})\.(\d{0,15})\\(?:overline|bar|dot)\s?\{?(\d{1,15})\}?(?!\d)"
)
_PARENTHESISED = re.compile(r"(?<![\d.a-zA-Z])(\d{1,15})\.(\d{0,15})\((\d{1,15})\)")
_ELLIPSIS = re.compile(r"(?<![\d.])(\d{0,15})\.(\d{0,9}?)(\d{1,6})\3\3+\s?(?:\.\.\.|\\[lc]?dots|…)")

# degrees in the argument of a trigonometric function
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_DEGREES = re.compile(
    r"(?P<number>\d{1,9}(?:\.\d{1,9})?|\\frac\{\d{1,9}\}\{\d{1,9}\}|(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z]))"
    r"\s?(?:\^\s?\{?\s?\\?(?:circ|degree)\s?\}?|\\degree|\\text\s?\{\s?degrees?\s?\})(?![a-zA-Z])"
)
_SET_BUILDER = re.compile(
    r"^\s*\\\{\s?(?P<name>[a-zA-Z])(?P<domain>\s?\\in\s?\\(?:mathbb\s?\{R\}|R|mathbb R))?"
    r"\s?(?::|\\mid|\\colon|\\vert|\||\\text\s?\{\s?such that\s?\})(?P<condition>.+)\\\}\s*$",
    re.DOTALL,
)


def undecorated(text: str) -> str:
    """The text without decoration, colours, font commands, and environments of aligned lines."""
    text = _ROW_SPACING.sub(r"\\\\ ", text)
    text = _COLOURED.sub("", _DECORATION.sub("", text))
    text = _NUMBER_IN_TEXT.sub(r"\1", _FONT.sub("", text))
    if r"\begin" not in text:
        text = _NEW_LINE.sub(",", text)
    if r"\begin{cases}" in text:
        text = _CONDITION_WORD.sub(" ", text)
    if _ALIGNED.search(text):
        # the lines of a computation are one chain; other lines are a list
        text = _ALIGNED.sub(" ", text)
        text = re.sub(r"\\\\\s*&?\s*=", "=", text)
        text = re.sub(r"\\\\", ",", text.strip().removesuffix(r"\\")).replace("&", "")
    return text


def without_lead(text: str) -> str:
    """The text without words in front of the value, such as "The answer is"."""
    return _LEAD.sub("", text, count=1) or text


def without_clause(text: str) -> tuple[str, str]:
    """The text without the reason or condition behind it, and that clause (perhaps empty)."""
    match = _CLAUSE.search(text)
    if not match or not text[: match.start()].strip() or r"\begin" in text:
        return text, ""
    return text[: match.start()].rstrip(" ,"), text[match.start() :]


def with_operators(text: str) -> str:
    r"""The text with \operatorname{lcm} and the like as commands of their own."""
    return _OPERATOR.sub(r"\\\1 ", text)


def with_functions(text: str) -> str:
    """The text with names of functions as commands: ln 2, sin(x), sqrt(x+(1)), cbrt(2), log_e 2."""
    pieces = _TEXT_COMMAND.split(text)  # what is text stays text
    for place in range(0, len(pieces), 2):
        piece = _PLAIN_FUNCTION.sub(_command, pieces[place])
        piece = _BRACKETED_FUNCTION.sub(r"\\\1 ", piece)
        pieces[place] = _roots(piece)
    text = "".join(pieces).replace(r"\abs ", r"\operatorname{abs}")
    text = re.sub(r"\\lg(?![a-zA-Z])", r"\\log_{10}", text)
    return _absolute(_LOG_E.sub(r"\\ln ", text))


def _command(match: re.Match[str]) -> str:
    """The command of a function that was written without a backslash."""
    name = match.group(1)
    return f"\\{_LONG_NAMES.get(name, name)} "


def _roots(text: str) -> str:
    """The text with sqrt(...) and cbrt(...) as commands, whatever stands in their parentheses."""
    # a bounded number of times, because texts may be hostile
    for _ in range(20):
        match = _ROOT.search(text)
        end = closing_place(text, match.end()) if match else -1
        if not match or end < 0:
            return text
        command = r"\sqrt[3]" if match.group(1) in ("cbrt", "∛") else r"\sqrt"
        text = f"{text[: match.start()]}{command}{{{text[match.end() + 1 : end - 1]}}}{text[end:]}"
    return text


def with_braced_exponents(text: str) -> str:
    """The text with braces around exponents in parentheses: x^(1/2) is x^{(1/2)}."""
    place = 0
    for _ in range(20):
        match = _EXPONENT.search(text, place)
        end = closing_place(text, match.end() - 1) if match else -1
        if not match or end < 0:
            return text
        text = f"{text[: match.start()]}^{{{text[match.end() - 1 : end]}}}{text[end:]}"
        place = match.end()
    return text


def _absolute(text: str) -> str:
    """The text with abs(...) as bars."""
    opening = r"\operatorname{abs}"
    for _ in range(10):
        start = text.find(opening)
        end = closing_place(text, start + len(opening)) if start >= 0 else -1
        if end < 0:
            return text
        text = f"{text[:start]}|{text[start + len(opening) + 1 : end - 1]}|{text[end:]}"
    return text


def with_fractions(text: str) -> str:
    r"""The text with repeating decimals as fractions: 0.\overline{3} and 0.(3) are 1/3."""
    for pattern in (_OVERLINE, _PARENTHESISED, _ELLIPSIS):
        text = pattern.sub(_fraction, text)
    return text


def _fraction(match: re.Match[str]) -> str:
    """A repeating decimal as a fraction: whole part, digits once, digits again and again."""
    whole, once, again = match.groups()
    scale = 10 ** len(once) * (10 ** len(again) - 1)
    value = int((whole or "0") + once + again) - int((whole or "0") + once)
    return rf"\frac{{{value}}}{{{scale}}}"


def with_radians(text: str) -> str:
    """The text with degrees as parts of pi where a trigonometric function takes them."""
    if not _TRIGONOMETRIC.search(text):
        return text
    return _DEGREES.sub(r"(\\frac{\g<number>\\pi}{180})", text)


def with_round_brackets(text: str) -> str:
    """The text with square brackets that only group, as in 2[x+(y)], turned into parentheses."""
    if "[" not in text:
        return text

    # a root's index and a closed interval keep their square brackets
    chars = list(text)
    for opening, closing in simple_groups(text):
        is_root = text[max(0, opening - 8) : opening].rstrip().endswith(r"\sqrt")
        is_whole = opening == 0 and closing == len(text) - 1
        if not is_root and not is_whole:
            chars[opening], chars[closing] = "(", ")"
    return "".join(chars)


def without_set_builder(text: str) -> str:
    r"""The condition of a set such as \{x : x > 2\}, or the text itself."""
    match = _SET_BUILDER.match(text)
    if not match or match["name"] not in match["condition"]:
        return text
    return match["condition"].strip()

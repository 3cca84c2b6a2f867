"""ASCII and LaTeX spellings for the characters that models write instead: ², ½, ≤, π and others."""

from __future__ import annotations

import re
import unicodedata

_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUB = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SYMBOLS = {
    # dashes that are written for a minus sign
    "−": "-",
    "–": "-",
    "—": "-",
    # products and quotients
    "×": r"\times ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "∙": r"\cdot ",
    "÷": "/",
    "⁄": "/",
    "∕": "/",
    # letters and constants
    "π": r"\pi ",
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "γ": r"\gamma ",
    "λ": r"\lambda ",
    "φ": r"\phi ",
    "ω": r"\omega ",
    "∞": r"\infty ",
    # relations
    "≤": r"\leq ",
    "≥": r"\geq ",
    "⩽": r"\leq ",
    "⩾": r"\geq ",
    "≠": r"\neq ",
    "≈": r"\approx ",
    "±": r"\pm ",
    # sets
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    # degrees, primes, quotation marks, Chinese punctuation
    "°": r"^\circ ",
    "′": "'",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "、": ",",
    "。": ".",
    # characters of no width
    "\u200b": "",
    "\ufeff": "",
    "\u2061": "",
    # dots and roots
    "…": "...",
    "∛": "cbrt",
    # relations between statements
    "∨": r"\lor ",
    "∧": r"\land ",
    "∖": r"\setminus ",
    "ℝ": r"\mathbb{R}",
}
VULGAR_FRACTIONS = {
    "½": (1, 2),
    "⅓": (1, 3),
    "⅔": (2, 3),
    "¼": (1, 4),
    "¾": (3, 4),
    "⅕": (1, 5),
    "⅖": (2, 5),
    "⅗": (3, 5),
    "⅘": (4, 5),
    "⅙": (1, 6),
    "⅚": (5, 6),
    "⅐": (1, 7),
    "⅛": (1, 8),
    "⅜": (3, 8),
    "⅝": (5, 8),
    "⅞": (7, 8),
    "⅑": (1, 9),
    "⅒": (1, 10),
}
"""Fractions of one character. Behind a digit they make a mixed number."""
for _character, (_top, _bottom) in VULGAR_FRACTIONS.items():
    _SYMBOLS[_character] = rf"\frac{{{_top}}}{{{_bottom}}}"
_SYMBOL_TABLE = str.maketrans(_SYMBOLS)


def ascii_spelling(text: str) -> str:
    """ASCII spellings for the characters that models write instead of LaTeX."""
    # runs of superscripts and subscripts become one exponent, one index
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda m: "^{" + m.group().translate(_SUPER) + "}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m.group().translate(_SUB) + "}", text)

    # before NFKC, which takes some symbols apart (½ into 1⁄2), and after it, which yields others
    text = text.translate(_SYMBOL_TABLE)
    return unicodedata.normalize("NFKC", text).translate(_SYMBOL_TABLE)

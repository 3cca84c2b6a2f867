"""Model output as text that a page can show whole: nothing hidden, nothing reordered, nothing
endless.

Escaping for HTML is not done here: the template and the browser's own `textContent` do it.
"""

from __future__ import annotations

from collections.abc import Iterable

PICTURES = 0x2400
"""The first of Unicode's pictures of control characters: U+2400 stands for U+0000."""
SHOWN_CONTROLS = "\n\t"
"""Control characters that a page shows as what they are."""


def _code_points() -> Iterable[int]:
    """Code points that are invisible, or that change how the characters beside them look."""
    # C1 controls, zero-width characters, marks of direction, line separators, tags
    yield from range(0x80, 0xA0)
    yield from range(0x200B, 0x2010)
    yield from range(0x2028, 0x202F)
    yield from range(0x2060, 0x2070)
    yield from (0x061C, 0xFEFF)
    yield from range(0xE0000, 0xE0080)


def _visible() -> dict[int, str]:
    """What stands for each character that cannot be shown as it is."""
    table: dict[int, str] = {}

    # ASCII's controls have pictures of their own
    for code in (*range(0x20), 0x7F):
        if chr(code) not in SHOWN_CONTROLS:
            table[code] = chr(PICTURES + min(code, 0x21))

    # the others go by their numbers, and so do lone surrogates, which no file can hold
    for code in (*_code_points(), *range(0xD800, 0xE000)):
        table[code] = f"⟨U+{code:04X}⟩"
    return table


VISIBLE = _visible()
"""Code point to the text that is shown for it; what is not listed is shown as it is."""


def shown_text(text: str, characters: int) -> str:
    """A text with its invisible characters made visible, and its middle left out if it is long.

    Args:
        text: anything a model wrote.
        characters: the most that are shown, >= 4; three quarters of them from the beginning.

    Returns:
        The text; where something was left out, a line says how many characters.
    """
    # the end of a response holds its answer, so some of it stays
    if len(text) > characters:
        tail = characters // 4
        head = characters - tail
        left_out = f"\n[… {len(text) - characters:,} characters are not in this page …]\n"
        text = text[:head] + left_out + text[len(text) - tail :]

    # most responses hold nothing to replace, and this test is quick
    return text if text.isprintable() else text.translate(VISIBLE)

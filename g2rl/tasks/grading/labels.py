"""Labels of enumerations: letters and numbers at the beginning of a line that name no answer.

A completion that works through the options ("A. ... B. ...") or through parts of its own ("(I) ...
(II) ...") has letters that look like answers, above all where it was cut off behind one.
"""

from __future__ import annotations

import re

_NUMBER_LABEL = re.compile(r"(\d{1,3})[.):]?")
_LETTER_LABEL = re.compile(
    r"(?:\*\*)?[(\[]?([A-Z])(?:[)\].:]{0,2}(?:\*\*)?(?:\s.{0,2000})?)", re.DOTALL
)
_DISPLAY = re.compile(r"\$\$|\\\[|\\\]")


def begins_an_enumeration(text: str, letter: str) -> bool:
    """Whether a text that begins with the label `letter` goes on with the next one."""
    following = chr(ord(letter) + 1)
    # at the beginning of a line, or in parentheses
    labels = [rf"(?:^|\n)\s*(?:\*\*)?[(\[]?{following}(?:[)\].:]|\s)", rf"\({following}\)"]
    labels.append(rf"[.!?]\s+{following}[.)]\s")  # in one line: "A. False. B. True."

    # Roman numbers
    if letter == "I":
        labels.append(r"(?:^|\n|\s)\(?II[).:\s]")
    return any(re.search(label, text[1:]) for label in labels)


def is_label(text: str, place: int, letter: str) -> bool:
    """Whether the letter at `place` begins a line, as one of its neighbours does elsewhere."""
    # nothing but mark-up stands before it
    start_of_line = text.rfind("\n", 0, place) + 1
    if text[start_of_line:place].strip(" *([-"):
        return False

    # the letter before it, or the one behind it, begins a line as well
    neighbours = f"[{chr(ord(letter) - 1)}{chr(ord(letter) + 1)}]"
    return bool(re.search(rf"(?:^|\n)[\s*(\[-]*{neighbours}[)\].:]", text))


def is_cut_off(before: str, line: str) -> bool:
    """Whether a last line is the label of a part that did not come, or lies within a formula.

    Args:
        before: the text before the last line.
        line: the last line, without outer spaces.
    """
    # a displayed formula was opened and not closed
    signs = _DISPLAY.findall(before)
    if signs.count("$$") % 2 == 1 or signs.count(r"\[") > signs.count(r"\]"):
        return True

    # the number behind the one that labels an earlier line
    number = _NUMBER_LABEL.fullmatch(line)
    if number:
        previous = int(number.group(1)) - 1
        return bool(re.search(rf"(?:^|\n)\s*{previous}[.):]\s", before))

    # the letter behind the one that labels an earlier line
    letter = _LETTER_LABEL.fullmatch(line)
    if letter and letter.group(1) > "A":
        earlier = chr(ord(letter.group(1)) - 1)
        return bool(re.search(rf"(?:^|\n)\s*(?:\*\*)?[(\[]?{earlier}[)\].:]\s?", before))
    return False

r"""Multiple-choice answers: which option did the model name? Linear time, and nothing is guessed.

Reasoning and end markers are cut off first (see `extract.final_text`). Then the first rule that
yields an offered letter decides:

1. the last box: ``\boxed{B}``, ``\boxed{\text{(B) because}}``, or one with the text of one option;
2. the last explicit statement: "the answer is (B)", "Answer: B", "option B is correct", or a
   correction of one ("no wait, B"); "the answer is A or B" states nothing;
3. the text of exactly one option after the last "answer is" or "Answer:";
4. a letter that begins the text and is set off from it ("B. It ..."), or makes up its last line, or
   a last line that is the text of exactly one option.

A small letter counts only where it cannot be a word: in a box or in parentheses. An answer that
cannot be read is wrong (route ``unparsed``); published scripts draw a letter at random there.
"""

from __future__ import annotations

import re
import string
import time
from collections.abc import Sequence

from g2rl.tasks.grading.extract import boxes, final_text, unbox
from g2rl.types import Problem, Verdict

DEFAULT_CHOICES = 10
"""Letters A to J count when a problem does not list its choices (as in MMLU-Pro)."""

# what may stand between "the answer is" and a letter
_OPEN = (
    r"(?:\s|\*\*|__|[:：$]|\\(?:text|mathrm|textbf|mathbf)\s?\{|\\\("
    r"|(?:option|choice|letter)\s){0,6}"
)
# a letter: (B), [B] or B
_NAMED = (
    r"(?:\(\s?(?P<round>[A-Za-z])\s?\)|\[(?P<square>[A-Z])\]"
    r"|(?P<plain>[A-Z])(?![A-Za-z0-9'’\-+=^/_\[(]|\s[=+*^/<>]))"
)
# no letter follows in "A lot", and no single one in "A or B"
_NOT_A_WORD = r"(?!(?<=[AI]) [a-z])(?!\s?,?\s?(?:or|and|/|&)\s?\(?[A-Z]\b)"
_LETTER = re.compile(_OPEN + _NAMED + _NOT_A_WORD)

# "the answer is", "Option:"
_MARKER = re.compile(
    r"\b(?:answer|option|choice)\b(?:\*\*)?(?:\s?[:：=]|[^\n.:：]{0,60}?\b(?:is|was|be)\b|(?=\s?\())"
    r"|答案\s?(?:是|为|為|[:：])",
    re.IGNORECASE,
)
# words that correct a statement, if a letter follows that is set off from the rest
_CORRECTION = re.compile(
    r"\b(?:no wait|wait|correction|I mean|actually)\b[,:]?\s(?:it(?:'s| is)\s)?", re.I
)
_SET_OFF = re.compile(r"\s{0,3}(?:\*\*|\))?\s?(?:[.,;:!。]|$)")

# "(B) is correct"
_DECLARED = re.compile(
    r"(?:\b(?:option|choice|answer)\s)?(?:\((?P<round>[A-Z])\)|\b(?P<plain>[A-Z]))(?:\*\*)?\s"
    r"(?:is|would be|must be)\s(?:the\s)?(?:correct|right|best)\b(?!\s?(?:if|when|only))"
)

# at the beginning of a text: "B. It ..."
_LEADING = re.compile(
    r"(?:\*\*|\()?(?P<plain>[A-Z])(?:\*\*)?"
    r"(?:\)|[.,:;。、]|\s{0,3}$|\s?\n|(?=[\u3000-\u9fff]))"
    r"(?!\s?,?\s?(?:or|and|/|&)\s?\(?[A-Z]\b)"
)
# at the beginning of a gold: "(B) text", "b)"
_LABELLED = re.compile(r"\(?\s?(?P<plain>[A-Za-z])\s?(?:\)|[.:)]|\s|$)")
# as a whole line: "**(B)**"
_ALONE = re.compile(r"(?:\*\*)?[(\[]?\s?([A-Z])\s?[)\]]?\.?(?:\*\*)?")
# as a whole box: "B", "(B) because"
_BOXED_LETTER = re.compile(r"\s{0,9}\(?\s?([A-Za-z])\s?(?:[).:].{0,500}|\s{0,9})", re.DOTALL)

# mark-up that says nothing, in a box and in the text of an option
_BOX_MARKUP = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|mathit|bf|rm)(?![a-z])\s?|[{}$]|\\[(),;!. ]|\*\*"
)
_MARKUP = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|mathit|left|right)(?![a-zA-Z])|\\[,;:! ]|[\\${}*\s~]"
)


class ChoiceVerifier:
    """Grades multiple-choice answers.

    A problem is ``Problem(..., answer="B", meta={"choices": ["3", "4", "5"]})``. Its choices are
    optional: without them, letters up to `DEFAULT_CHOICES` are offered.
    """

    bounded = True

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion; never raises. The verdict's answer is the letter."""
        start = time.perf_counter()
        choices = choices_of(problem)
        letter, route = read_letter(final_text(completion), choices)
        correct = letter is not None and letter == gold_letter(problem.answer, choices)
        return Verdict(correct, letter, route, time.perf_counter() - start)

    def key(self, answer: str) -> str:
        """The letter in capitals."""
        return answer.strip().upper()

    def equivalent(self, left: str, right: str) -> bool:
        """Whether two extracted letters are the same."""
        return self.key(left) == self.key(right)


def choices_of(problem: Problem) -> list[str]:
    """The texts of the options; empty strings when the problem does not list them."""
    listed = problem.meta.get("choices")
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not 1 < len(listed) <= 26:
        return [""] * DEFAULT_CHOICES
    return [str(choice) for choice in listed]


def gold_letter(gold: str, choices: Sequence[str]) -> str | None:
    """The letter that a gold means.

    A gold may be "B", "(B) text", the text of an option, or a sentence that states the letter.
    """
    labelled = _LABELLED.match(gold.strip())
    if labelled and labelled["plain"].upper() in _letters(choices):
        return labelled["plain"].upper()
    return read_letter(gold, choices)[0]


def read_letter(text: str, choices: Sequence[str]) -> tuple[str | None, str]:
    """Find the letter that `text` names, by the four rules of this module.

    Returns:
        The letter and how it was named: "letter", or "text" for the text of its option.
        (None, "unparsed") when no rule yields an offered letter.
    """
    # rule 1: the last box
    found_boxes, _ = boxes(text)
    if found_boxes:
        content = unbox(found_boxes[-1].content)
        if letter := _boxed_letter(content, choices):
            return letter, "letter"
        if letter := _option(content, choices):
            return letter, "text"

    # rule 2: the last statement
    if letter := _stated(text, choices):
        return letter, "letter"

    # rule 3: the text of an option, in the line behind the last marker
    markers = list(_MARKER.finditer(text))
    if markers:
        rest_of_line = text[markers[-1].end() :].strip().split("\n", 1)[0]
        if letter := _option(rest_of_line, choices):
            return letter, "text"

    # rule 4: a letter by itself
    return _alone(text.strip(), choices)


def _letters(choices: Sequence[str]) -> str:
    """The letters that are offered: "ABCD" for four choices."""
    return string.ascii_uppercase[: len(choices)]


def _boxed_letter(content: str, choices: Sequence[str]) -> str | None:
    """The letter in a box that holds one, possibly with its text behind it."""
    content = _BOX_MARKUP.sub(" ", content)
    match = _BOXED_LETTER.fullmatch(content)
    if match and match[1].upper() in _letters(choices):
        return match[1].upper()
    return None


def _stated(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the last explicit statement in the text, if it is offered."""
    # every letter behind "the answer is", and every one that is declared to be right
    statements: list[tuple[int, str]] = []  # (position of the letter, letter)
    for marker in _MARKER.finditer(text):
        letter = _LETTER.match(text, marker.end())
        if letter:
            statements.append((letter.start(), _named(letter)))
    for declared in _DECLARED.finditer(text):
        statements.append((declared.start(), declared["round"] or declared["plain"]))
    if not statements:
        return None

    # a correction counts behind the first statement, and only if its letter is set off
    first_position = min(position for position, _ in statements)
    for marker in _CORRECTION.finditer(text, first_position):
        letter = _LETTER.match(text, marker.end())
        if letter and _SET_OFF.match(text, letter.end()):
            statements.append((letter.start(), _named(letter)))

    # the last statement stands, and is not looked behind when its letter is not offered
    _, last_letter = max(statements)
    last_letter = last_letter.upper()
    return last_letter if last_letter in _letters(choices) else None


def _named(letter: re.Match[str]) -> str:
    """The letter in a match of `_LETTER`: in round brackets, in square ones, or plain."""
    return letter["round"] or letter["square"] or letter["plain"]


def _option(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the one option whose text this is, spelling and case aside."""
    wanted = _plain(text)
    if not wanted:
        return None

    # a text that two options share names neither
    matching_letters = []
    for letter, choice in zip(_letters(choices), choices, strict=True):
        if _plain(choice) == wanted:
            matching_letters.append(letter)
    return matching_letters[0] if len(matching_letters) == 1 else None


def _plain(text: str) -> str:
    """A text without mark-up, spaces and case. Units stay: they tell options apart."""
    return _MARKUP.sub("", text[:2000]).casefold().strip(".")


def _alone(text: str, choices: Sequence[str]) -> tuple[str | None, str]:
    """Rule 4: a letter that begins the text, or a last line that is a letter or an option."""
    # a letter at the beginning, set off from what follows
    leading = _LEADING.match(text)
    if leading and leading["plain"] in _letters(choices):
        return leading["plain"], "letter"

    # the last line
    line = text.rsplit("\n", 1)[-1].strip()
    alone = _ALONE.fullmatch(line)
    if alone and alone[1] in _letters(choices):
        return alone[1], "letter"
    if letter := _option(line, choices):
        return letter, "text"
    return None, "unparsed"

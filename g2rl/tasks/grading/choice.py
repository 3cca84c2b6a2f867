r"""Multiple-choice answers: which option did the model name? Linear time, and nothing is ever
guessed.

Policy; the first rule that yields an offered letter decides (after reasoning and end markers are
cut off, see `extract.final_text`):

1. the last box: ``\boxed{B}``, ``\boxed{\text{(B) because}}``, or a box with the text of one
option;
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

_OPEN = (
    r"(?:\s|\*\*|__|[:：$]|\\(?:text|mathrm|textbf|mathbf)\s?\{|\\\("
    r"|(?:option|choice|letter)\s){0,6}"
)
_NAMED = (
    r"(?:\(\s?(?P<round>[A-Za-z])\s?\)|\[(?P<square>[A-Z])\]"
    r"|(?P<plain>[A-Z])(?![A-Za-z0-9'’\-+=^/_\[(]|\s[=+*^/<>]))"
)
_NOT_A_WORD = r"(?!(?<=[AI]) [a-z])(?!\s?,?\s?(?:or|and|/|&)\s?\(?[A-Z]\b)"  # "A lot", "A or B"
_LETTER = re.compile(_OPEN + _NAMED + _NOT_A_WORD)
_MARKER = re.compile(
    r"\b(?:answer|option|choice)\b(?:\*\*)?(?:\s?[:：=]|[^\n.:：]{0,60}?\b(?:is|was|be)\b|(?=\s?\())"
    r"|答案\s?(?:是|为|為|[:：])",
    re.IGNORECASE,
)
_CORRECTION = re.compile(
    r"\b(?:no wait|wait|correction|I mean|actually)\b[,:]?\s(?:it(?:'s| is)\s)?", re.I
)
_SET_OFF = re.compile(r"\s{0,3}(?:\*\*|\))?\s?(?:[.,;:!。]|$)")
_DECLARED = re.compile(
    r"(?:\b(?:option|choice|answer)\s)?(?:\((?P<round>[A-Z])\)|\b(?P<plain>[A-Z]))(?:\*\*)?\s"
    r"(?:is|would be|must be)\s(?:the\s)?(?:correct|right|best)\b(?!\s?(?:if|when|only))"
)
_LEADING = re.compile(
    r"(?:\*\*|\()?(?P<plain>[A-Z])(?:\*\*)?(?:\)|[.,:;。、]|\s{0,3}$|\s?\n|(?=[\u3000-\u9fff]))(?!\s?,?\s?(?:or|and|/|&)\s?\(?[A-Z]\b)"
)
_LABELLED = re.compile(r"\(?\s?(?P<plain>[A-Za-z])\s?(?:\)|[.:)]|\s|$)")

_MARKUP = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|mathit|left|right)(?![a-zA-Z])|\\[,;:! ]|[\\${}*\s~]"
)


class ChoiceVerifier:
    """Grades multiple-choice answers: ``Problem(..., answer="B", meta={"choices": ["3", "4",
    "5"]})``.

    `meta["choices"]` is optional: without it, letters up to `DEFAULT_CHOICES` are offered.
    """

    bounded = True

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion; never raises. The verdict's answer is the letter."""
        # read, then compare with the gold's letter
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
    """The letter that a gold means: "B", "(B) text", the text of an option, or a sentence stating
    it."""
    letters = _letters(choices)
    labelled = _LABELLED.match(gold.strip())
    if labelled and labelled["plain"].upper() in letters:
        return labelled["plain"].upper()
    return read_letter(gold, choices)[0]


def read_letter(text: str, choices: Sequence[str]) -> tuple[str | None, str]:
    """The letter that `text` names and the rule that found it: (None, "unparsed") when there is
    none."""
    found, _ = boxes(text)
    if found:
        content = unbox(found[-1][2])
        if letter := _boxed_letter(content, choices):
            return letter, "letter"
        if letter := _option(content, choices):
            return letter, "text"
    if letter := _stated(text, choices):
        return letter, "letter"
    markers = list(_MARKER.finditer(text))
    if markers:
        rest = text[markers[-1].end() :].strip().split("\n", 1)[0]
        if letter := _option(rest, choices):
            return letter, "text"
    return _alone(text.strip(), choices)


def _letters(choices: Sequence[str]) -> str:
    return string.ascii_uppercase[: len(choices)]


def _boxed_letter(content: str, choices: Sequence[str]) -> str | None:
    """The letter in a box that holds one, possibly with its text behind it."""
    content = re.sub(
        r"\\(?:text|mathrm|textbf|mathbf|mathit|bf|rm)(?![a-z])\s?|[{}$]|\\[(),;!. ]|\*\*",
        " ",
        content,
    )
    match = re.fullmatch(r"\s{0,9}\(?\s?([A-Za-z])\s?(?:[).:].{0,500}|\s{0,9})", content, re.DOTALL)
    if match and match[1].upper() in _letters(choices):
        return match[1].upper()
    return None


def _stated(text: str, choices: Sequence[str]) -> str | None:
    """The offered letter of the last explicit statement in the text."""
    stated: list[tuple[int, str]] = []
    for marker in _MARKER.finditer(text):
        letter = _LETTER.match(text, marker.end())
        if letter:
            stated.append((letter.start(), letter["round"] or letter["square"] or letter["plain"]))
    stated += [(m.start(), m["round"] or m["plain"]) for m in _DECLARED.finditer(text)]
    if stated:
        for marker in _CORRECTION.finditer(text, min(position for position, _ in stated)):
            letter = _LETTER.match(text, marker.end())
            if letter and _SET_OFF.match(text, letter.end()):
                stated.append(
                    (letter.start(), letter["round"] or letter["square"] or letter["plain"])
                )
    last = max(stated, default=None)
    return last[1].upper() if last and last[1].upper() in _letters(choices) else None


def _option(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the one option whose text this is, spelling and case aside."""
    wanted = _plain(text)
    matches = [
        letter
        for letter, choice in zip(_letters(choices), choices, strict=True)
        if _plain(choice) == wanted
    ]
    return matches[0] if wanted and len(matches) == 1 else None


def _plain(text: str) -> str:
    """A text without mark-up, spaces and case. Units stay: they tell options apart."""
    return _MARKUP.sub("", text[:2000]).casefold().strip(".")


def _alone(text: str, choices: Sequence[str]) -> tuple[str | None, str]:
    """Rule 4: a letter that begins the text, or a last line that is a letter or an option."""
    # a letter at the beginning, set off from what follows
    leading = _LEADING.match(text)
    if leading and leading["plain"] in _letters(choices):
        return leading["plain"], "letter"

    # the last line alone
    line = text.rsplit("\n", 1)[-1].strip()
    alone = re.fullmatch(r"(?:\*\*)?[(\[]?\s?([A-Z])\s?[)\]]?\.?(?:\*\*)?", line)
    if alone and alone[1] in _letters(choices):
        return alone[1], "letter"
    if letter := _option(line, choices):
        return letter, "text"
    return None, "unparsed"

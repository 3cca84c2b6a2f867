r"""Multiple-choice answers: which option did the model name? Linear time, and nothing is guessed.

Reasoning and end markers are cut off first (see `extract.final_text`). Then the first rule that
yields an offered letter decides:

1. the last box: ``\boxed{B}``, ``\boxed{\text{(B) because}}``, or one with the text of one option;
2. the last explicit statement: "the answer is (B)", "Answer: B", "option B is correct", or a
   correction of one ("no wait, B"); "the answer is A or B" states nothing, nor does a letter that
   is not offered;
3. the text of exactly one option after the last "answer is" or "Answer:";
4. a letter that begins the text and is set off from it ("B. It ..."), or makes up its last line, or
   a last line that is the text of exactly one option;
5. in the last paragraph, the one letter with the text of its option behind it ("is J. Sb."), or the
   one letter in parentheses that ends it or follows a verb ("which is (J).").

A small letter counts only where it cannot be a word: in a box, in parentheses, or alone behind the
colon of an "Answer:" in a text without sentences. A letter that labels a part of an enumeration, or
a line that was cut off, names nothing (see `labels`). Of a completion that the token limit ended,
only a box counts. An answer that cannot be read is wrong (route ``unparsed``); published scripts
draw a letter at random there.
"""

from __future__ import annotations

import re
import string
import time
from collections.abc import Iterator, Sequence

from g2rl.tasks.grading.extract import boxes, final_text, unbox
from g2rl.tasks.grading.labels import begins_an_enumeration, is_cut_off, is_label
from g2rl.tasks.grading.reasoning import CUT_OFF
from g2rl.types import Problem, Verdict

DEFAULT_CHOICES = 10
"""Letters A to J count when a problem does not list its choices (as in MMLU-Pro)."""

# what may stand between "the answer is" and a letter
_OPEN = (
    r"(?:\s|\*{1,2}|_{1,2}|[:：$→{`\"“']|\\(?:text|mathrm|textbf|mathbf)\s?\{|\\\("
    r"|(?:[Oo]ption|[Cc]hoice|[Ll]etter)\s|not\s\(?[A-Z]\)?,?\s(?:but|it\sis)\s|closest\sto\s"
    r"|I\s(?:think|believe|guess|choose|pick|would\ssay)\s|(?:that\s)?it(?:'s|\sis|\smust\sbe)\s"
    r"|probably\s|definitely\s|likely\s){0,8}"
)
# a letter: (B), [B], B, or "(B" where the text was cut off
_NAMED = (
    r"(?:\(\s?(?P<round>[A-Za-z])\s?\)|\[(?P<square>[A-Z])\]|\((?P<cut>[A-Z])\Z"
    r"|(?P<plain>[A-Z])(?![A-Za-z0-9'’\-+=^/_\[(]|\s[=+*^/<>]))"
)
# no letter follows in "A lot", and no single one in "A or B", "(A), (B)" and "A: 1, B: 2"
_NOT_A_WORD = (
    r"(?!(?<=[AI]) [a-z])(?!\s?,?\s?(?:or|and|/|&)\s?\(?[A-Z]\b)(?!\s?,\s?\(?[A-Z](?:\)|,|\s?$))"
    r"(?!:[^\n]{1,200}\b[A-Z]:\s)"
)
_LETTER = re.compile(_OPEN + _NAMED + _NOT_A_WORD)
_SMALL_LETTER = re.compile(_OPEN + r"(?P<plain>[a-z])(?=[*_.) ]{0,4}(?:\n|\Z))")

# "the answer is", "Option:", "Option selected:"
_MARKER = re.compile(
    r"(?<![A-Za-z])(?:answers?|ans|option|choice)(?![A-Za-z])[*_]{0,2}"
    r"(?:(?:\s[a-z]{2,12}){0,2}\s?[:：=]|\s[-–—→]\s|[^\n.:：]{0,60}?\b(?:is|was|be|are)\b|(?=\s?\())"
    r"|答案\s?(?:是|为|為|[:：])|\bI(?:'d|'ll|\swill|\swould)?\s(?:choose|pick|select|go\swith)\b",
    re.IGNORECASE,
)
# words that correct a statement, if a letter follows that is set off from the rest
_CORRECTION = re.compile(
    r"\b(?:no wait|wait|correction|I mean|actually)\b[,:]?\s(?:it(?:'s| is)\s)?", re.I
)
_SET_OFF = re.compile(r"\s{0,3}(?:\*\*|\))?\s?(?:[.,;:!。]|$)")

# "(B) is correct", "B is the answer"
_DECLARED = re.compile(
    r"(?:\b(?:option|choice|answer)\s)?(?:\((?P<round>[A-Z])\)|\b(?P<plain>[A-Z]))(?:\*\*)?\s"
    r"(?:is|would be|must be)\s(?:the\s)?(?:correct|right|best|answer)\b(?!\s?(?:if|when|only))"
)

# at the beginning of a text: "B. It ..."
_LEADING = re.compile(
    r"(?:\*\*|\()?(?P<plain>[A-Z])(?:\*\*)?"
    r"(?:\)|[.,:;。、]|\s{0,3}$|\s?\n|(?=[\u3000-\u9fff]))"
    r"(?!\s?,?\s?(?:or|and|/|&)\s?\(?[A-Z]\b)"
)
# at the beginning of a gold: "(B) text", "b)"
_LABELLED = re.compile(r"\(?\s?(?P<plain>[A-Za-z])\s?(?:\)|[.:)]|\s|$)")
# as a whole line: "**(B)**", "Option B"
_ALONE = re.compile(
    r"(?:\*\*)?(?:(?:[Oo]ption|[Cc]hoice|[Ll]etter)\s)?[(\[]?\s?([A-Z])\s?[)\]]?\.?(?:\*\*)?"
)
# as a whole box: "B", "(B) because", "[B]", "Option B"
_BOXED_LETTER = re.compile(
    r"\s{0,9}(?:(?:[Oo]ption|[Cc]hoice)\s)?[(\[]?\s?([A-Za-z])\s?(?:[)\].:].{0,500}|\s{0,9})",
    re.DOTALL,
)

# at the end of a text: "which corresponds to option C."
_OPTION_AT_THE_END = re.compile(r"\b(?:[Oo]ption|[Cc]hoice)\s\(?([A-Z])\)?[.*\s]{0,4}\Z")
# a letter in front of what may be the text of its option: "J. Sb", "(J) Sb"
_BESIDE = re.compile(
    r"(?<![A-Za-z0-9])(?:\((?P<round>[A-Z])\)|(?P<plain>[A-Z])[.):])[*\s]{1,4}(?=\S)"
)
# a letter in parentheses that does not belong to a formula, and what makes it a statement
_PARENTHESISED = re.compile(r"(?<![A-Za-z0-9\\$^_{}])\((?P<round>[A-Z])\)")
_BEFORE_A_NAME = re.compile(
    r"(?:\b(?:is|are|was|were|be|making|called|statement|option|choice|answers?|therefore|to)\b|[\"”,])"
    r"[:\s]{0,3}$",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:not|isn't|wasn't|except|neither|nor)\s{1,3}(?:option\s|choice\s)?$", re.I
)
_DENIED_BEHIND = re.compile(r"\s{1,3}(?:is|are|was)\s(?:not|incorrect|wrong|false|ruled)", re.I)
# an announcement of an answer that does not come
_STUB = re.compile(r"\n\s{0,5}(?:so,?\s)?(?:the\s)?(?:final\s)?answer(?:\sis)?[ .:…]{0,9}\Z", re.I)

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
    minds_cut_off = True
    one_right_answer = True

    def grade(self, completion: str, problem: Problem) -> Verdict:
        """Judge one completion; never raises. The verdict's answer is the letter."""
        start = time.perf_counter()
        choices = choices_of(problem)
        letter, route = read_letter(final_text(completion), choices, completion.endswith(CUT_OFF))
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


def read_letter(
    text: str, choices: Sequence[str], boxed_only: bool = False
) -> tuple[str | None, str]:
    """Find the letter that `text` names, by the five rules of this module.

    With `boxed_only`, rule 1 alone applies.

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

    if boxed_only:
        return None, "unparsed"

    # rule 2: the last statement
    if letter := _stated(text, choices):
        return letter, "letter"

    # rule 3: the text of an option, in the line behind the last marker
    markers = list(_MARKER.finditer(text))
    if markers:
        rest_of_line = text[markers[-1].end() :].strip(" *_:\n").split("\n", 1)[0]
        if letter := _option(rest_of_line, choices):
            return letter, "text"

    # rules 4 and 5: a letter by itself, or in the last paragraph
    letter, route = _alone(text.strip(), choices)
    if letter is None and (letter := _in_last_paragraph(text, choices)):
        route = "letter"
    return letter, route


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
    """The letter of the last explicit statement that names an offered one."""
    # every letter behind "the answer is", and every one that is declared to be right
    statements: list[tuple[int, str]] = []  # (position of the letter, letter)
    for marker in _MARKER.finditer(text):
        letter = _LETTER.match(text, marker.end())
        if not letter and marker.group()[-1] in ":：" and not _has_prose(text):
            letter = _SMALL_LETTER.match(text, marker.end())
        if letter:
            statements.append((letter.start(), _named(letter)))
    for declared in _DECLARED.finditer(text):
        if not _DENIED.search(text, max(0, declared.start() - 20), declared.start()):
            statements.append((declared.start(), _named(declared)))
    if not statements:
        return None

    # a correction counts behind the first statement, and only if its letter is set off
    first_position = min(position for position, _ in statements)
    for marker in _CORRECTION.finditer(text, first_position):
        letter = _LETTER.match(text, marker.end())
        if letter and _SET_OFF.match(text, letter.end()):
            statements.append((letter.start(), _named(letter)))

    # the last that names an offered letter
    for _, named_letter in sorted(statements, reverse=True):
        if named_letter.upper() in _letters(choices):
            return named_letter.upper()
    return None


def _has_prose(text: str) -> bool:
    """Whether a text has a sentence: in it a small letter may be the name of anything."""
    return any(len(line.split()) > 6 for line in text.splitlines())


def _named(letter: re.Match[str]) -> str:
    """The letter in a match: in round brackets, in square ones, cut off, or plain."""
    found = [value for value in letter.groupdict().values() if value]
    return found[0]


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
        is_denied = bool(_DENIED_BEHIND.match(text, leading.end()))
        if not is_denied and not begins_an_enumeration(text, leading["plain"]):
            return leading["plain"], "letter"

    # the last line, unless it was cut off behind a label
    before, _, line = text.rpartition("\n")
    line = line.strip()
    if is_cut_off(before, line):
        return None, "unparsed"
    alone = _ALONE.fullmatch(line)
    if alone and alone[1] in _letters(choices):
        return alone[1], "letter"
    named = _OPTION_AT_THE_END.search(line)
    if named and named[1] in _letters(choices):
        return named[1], "letter"
    if letter := _option(line, choices):
        return letter, "text"
    return None, "unparsed"


def _in_last_paragraph(text: str, choices: Sequence[str]) -> str | None:
    """Rule 5: the one letter in the last paragraph that has its option's text or parentheses."""
    before, _, paragraph = _STUB.sub("", text.strip()).rpartition("\n\n")
    first_line = paragraph.split("\n", 1)[0]
    if is_cut_off(before, first_line):
        return None
    for find in (_beside_their_text, _in_parentheses):
        found = set(find(paragraph, choices))
        if len(found) == 1:
            return found.pop()
        if found:
            return None  # several letters name none
    return None


def _beside_their_text(paragraph: str, choices: Sequence[str]) -> Iterator[str]:
    """The letters with the text of their option behind them."""
    for match in _BESIDE.finditer(paragraph):
        letter = _named(match)
        place = _letters(choices).find(letter)

        # a letter that only labels an option is no choice
        if place < 0 or is_label(paragraph, match.start(), letter):
            continue
        if _DENIED.search(paragraph[max(0, match.start() - 20) : match.start()]):
            continue

        # the text behind the letter must be that option's, up to a word's end
        option = _worded(choices[place]).strip(". ")
        behind = _worded(paragraph[match.end() : match.end() + 2 * len(choices[place]) + 40])
        if option and behind.startswith(option) and not behind[len(option) :][:1].isalnum():
            yield letter


def _worded(text: str) -> str:
    """A text without mark-up and case, with single spaces between its words."""
    pieces = [_MARKUP.sub("", piece) for piece in text[:2000].split()]
    return " ".join(pieces).casefold()


def _in_parentheses(paragraph: str, choices: Sequence[str]) -> Iterator[str]:
    """The letters in parentheses; with a foreign one, or without a statement, none that counts."""
    is_statement = False
    named: list[str] = []

    # letters that are not denied
    for match in _PARENTHESISED.finditer(paragraph):
        before = paragraph[max(0, match.start() - 20) : match.start()]
        if _DENIED.search(before) or _DENIED_BEHIND.match(paragraph, match.end()):
            continue
        named.append(match["round"])
        is_last = not paragraph[match.end() :].strip(" .*\n")
        is_statement = is_statement or is_last or bool(_BEFORE_A_NAME.search(before))

    # without a statement they are only mentioned
    if is_statement:
        yield from (letter for letter in named if letter in _letters(choices))

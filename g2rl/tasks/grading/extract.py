r"""Find the final answer in model output, in time linear in the length of the text.

The first rule that applies decides:

1. Reasoning does not count (see `reasoning`): only the text behind the last marker that closes it
   is read, and reasoning that was never closed means that the model did not come to an answer.
2. The text ends at the first end-of-turn marker, and only its last `MAX_TAIL` characters are read.
3. The last ``\boxed{...}`` (or ``\fbox{...}``, or ``\boxed 5``) is the answer. Boxes joined by
   nothing but a separator ("\boxed{1} and \boxed{2}") are one answer in parts. A box that is never
   closed is not an answer. An empty one repeats the instruction, and is passed over if another box
   holds something or an answer is stated behind it.
4. Without any box (and unless `boxed_only`): what ``<answer>...</answer>`` holds; else what follows
   the last "answer is" or "Answer:"; else the whole text when it is one bare expression; else the
   last formula, bold text or number. A tag around a box does not matter.

Answers hold neither null bytes nor lone surrogates, whatever the completion holds.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from g2rl.tasks.grading.reasoning import CUT_OFF, spoken
from g2rl.tasks.grading.spelling import VULGAR_FRACTIONS

MAX_TAIL = 20_000
"""Characters of a completion that are read, counted from its end."""
MAX_ANSWER = 2_000
"""An answer longer than this (characters) is no answer."""
MAX_DEPTH = 60
"""An answer whose brackets nest deeper than this is no answer."""

# end-of-turn markers of common chat templates
_TURN_END = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|end_of_text|end|cut_off)\|>|</s>|<end_of_turn>"
)

# what `boxes` looks at: a box, an escaped character, a brace
_TOKEN = re.compile(
    r"\\{1,2}(?:boxed|fbox|framebox)(?![a-zA-Z])\s{0,5}(?P<brace>\{)?|\\[^a-zA-Z]|[{}]", re.DOTALL
)
# what \boxed holds when no brace follows it
_BARE_BOX = re.compile(r"-?[0-9][0-9.,/]{0,60}|-?(?:\\[A-Za-z]{1,20}|[A-Za-z])(?![A-Za-z])")

# between two parts of an answer: characters that say nothing
_GLUE = re.compile(r"\\[()\[\],;: !]|\\q?quad|\\(?:text|mathrm)\s?\{|[${}\s]")
# a separator at the end, perhaps with the name of the next part ("and y=")
_SEPARATED = re.compile(r"(?:[,;，；、&]|and|or)(?:[A-Za-z]{1,3}(?:_\w{1,3})?=)?$")
# words by which a text comes to something else
_TURNING = re.compile(
    r"\b(?:so|thus|hence|therefore|but|wait|actually|instead|no|not|then|now|finally)\b"
)

# phrases behind which an answer stands
_ANSWER_IS = re.compile(
    r"(?<![A-Za-z])answers?(?![A-Za-z])[*_]{0,2}"
    r"(?:\s?[:：=]|[^\n.:：$\\]{0,80}?\b(?:is|are|equals)\b\s?:?|(?=\s?(?:\$|\\[(\[])))"
    r"(?!\s?not\b)|\b(?:solutions|roots) are\b\s?:?|####"
    r"|答案\s?(?:是|为|為|[:：])",
    re.IGNORECASE,
)
_FINAL_ANSWER_IS = re.compile(
    r"\bfinal answer(?: is\b|\s?[:：])(?!\s?(?:the )?final answer)\s?:?", re.I
)
# the end of the sentence that such a phrase begins
_SENTENCE_END = re.compile(
    r"\n\s{0,8}\n|(?<=[^\s.])\.(?=\s{1,3}[A-Z])|。|\s(?=I hope it is correct)"
    r"|,\s(?=(?:not|which|since|because|where|so|as)\b)"
)

# a number in running text, with thousands separators or as a ratio
_VULGAR = "[" + "".join(VULGAR_FRACTIONS) + "]"
_NUMBER = (
    r"(?<![A-Za-z0-9_.,/])-?(?:(?:\d{1,40}(?:,\d{1,40}){0,9}(?:\.\d{1,40})?|\.\d{1,40})"
    rf"(?:\s?/\s?\d{{1,40}}|:\d{{1,40}}|\s?{_VULGAR})?|{_VULGAR})"
)
# what may be an answer in running text: a formula, bold text, a number
_SPAN = re.compile(
    r"\$\$(?P<display>[^$]{1,2000})\$\$"
    r"|(?<![\\$])\$(?P<inline>(?:[^$\\]|\\.){1,2000})\$"
    r"|\\\((?P<paren>(?:[^\\]|\\[^()]){1,2000})\\\)"
    r"|\\\[(?P<bracket>(?:[^\\]|\\[^\[\]]){1,2000})\\\]"
    r"|(?P<root>-?\d{0,20}\\sqrt\s?\{[^{}]{1,40}\}|-?\d{1,20}(?:\\pi(?![a-z])|π))"
    r"|(?P<frac>-?\\[dtc]?frac\s?\{[^{}]{1,40}\}\s?\{[^{}]{1,40}\})"
    r"|\*\*(?P<bold>[^*\n]{1,200})\*\*"
    rf"|(?P<number>{_NUMBER})",
    re.DOTALL,
)
_PERCENT = re.compile(r"\s{0,2}(?:\\?%|percent\b)")

# an equation at the end of a sentence: "so y = 3x + 2."
_EQUATION_AT_END = re.compile(
    r"(?<![A-Za-z\d])[A-Za-z](?:_\w|\([a-z]\))?\s?=\s?(?:(?![A-Za-z]{2})[-+*/^().\w ]){1,60}$"
)

# a text that ends with what is not the answer
_DENIED = re.compile(r"(?<![A-Za-z])answer\s(?:\w{1,20}\s){0,3}?is\snot\s[^\n.]{0,100}\.?\Z", re.I)

# two words in a row, or letters of another script: no expression
_PROSE = re.compile(
    r"(?<![\\A-Za-z{])[A-Za-z]{2,30}\s+[A-Za-z]{2,30}\b|[\u0590-\u1fff\u3040-\uffff]"
)
# a word in front of an answer ("Answer: 5"); names of functions are none
_LABEL = re.compile(
    r"(?!(?:pi|sqrt|sin|cos|tan|log|ln)\b)[A-Za-z]{2,30}[ :,]{1,3}(?=.{0,300}[\d$\\])", re.DOTALL
)
_WORD = re.compile(r"[A-Za-z]{2}")


# an answer in tags, perhaps never closed
_ANSWER_TAG = re.compile(r"<(?P<name>answer|final_answer)>", re.IGNORECASE)


class Box(NamedTuple):
    """A closed box in a text: from its backslash (`start`) to behind its brace (`end`)."""

    start: int
    end: int
    content: str


def extract_answer(completion: str, boxed_only: bool = False) -> str | None:
    """The final answer of a completion as the model wrote it, or None when there is none to read.

    With `boxed_only`, and of a completion that was cut off (`reasoning.CUT_OFF`), rule 4 is off: an
    answer outside a box counts as no answer.
    """
    boxed_only = boxed_only or completion.endswith(CUT_OFF)
    text = final_text(completion)
    if not boxed_only:
        text = _tagged(text)
    found_boxes, attempted = boxes(text)
    filled_boxes = [box for box in found_boxes if box.content.strip()]

    # the last box, unless another final answer is stated behind it
    if filled_boxes:
        answer = _last_run(text, filled_boxes)
        if not boxed_only:
            answer = _stated_after(text, filled_boxes[-1].end) or answer
    elif boxed_only:
        return None
    elif attempted:
        # an empty box may repeat the instruction, if an answer is stated behind it
        is_closed = found_boxes and not boxes(text[found_boxes[-1].end :])[1]
        answer = _answer_after(text[found_boxes[-1].end :]) if is_closed else ""
    else:
        answer = _unboxed(text)

    # an answer has a bounded length and depth
    answer = answer.strip()
    if not answer or len(answer) > MAX_ANSWER or too_deep(answer):
        return None
    return answer


def last_boxed(text: str) -> str | None:
    """What the last closed box of a text holds, or None without a box.

    Unlike `extract_answer` it applies no other rule, so it suits a written solution.
    """
    found_boxes, _ = boxes(text)
    if not found_boxes:
        return None
    return unbox(found_boxes[-1].content).strip()


def final_text(completion: str) -> str:
    """The part of a completion that may hold the answer (rules 1 and 2), perhaps empty."""
    # what follows the reasoning
    tail = spoken(completion).lstrip()

    # up to the end of the turn; a marker at the very beginning opens the turn
    end = _TURN_END.search(tail, 1)
    if end:
        tail = tail[: end.start()]
    return clean(tail[-MAX_TAIL:])


def clean(text: str) -> str:
    """Replace lone surrogates by "?" and drop null bytes, so that any file can hold the text."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def too_deep(text: str, limit: int = MAX_DEPTH) -> bool:
    """Whether brackets of any kind nest deeper than `limit`; one pass, no recursion."""
    depth = 0
    for char in text:
        if char in "([{":
            depth += 1
            if depth > limit:
                return True
        elif char in ")]}":
            depth = max(0, depth - 1)
    return False


def boxes(text: str) -> tuple[list[Box], bool]:
    r"""All closed outermost boxes, and whether any box was begun at all.

    One pass with a stack: ``boxes(r"is \boxed{2}")`` is ``([Box(3, 12, "2")], True)``.
    """
    closed: list[Box] = []
    # what each open brace began: (start of the box, start of its content), or None for a plain one
    open_braces: list[tuple[int, int] | None] = []
    attempted = False
    for token in _TOKEN.finditer(text):
        symbol = token.group()

        # a brace is opened, by a box or plainly
        if token.group("brace"):
            attempted = True
            open_braces.append((token.start(), token.end()))
        elif symbol == "{":
            open_braces.append(None)

        # a brace is closed, perhaps a box's
        elif symbol == "}" and open_braces:
            opened = open_braces.pop()
            if opened is not None:
                start, content_start = opened
                while closed and closed[-1].start > start:
                    closed.pop()  # an inner box, which this one contains
                closed.append(Box(start, token.end(), text[content_start : token.start()]))

        # \boxed without a brace holds the number or the name behind it
        elif "box" in symbol:
            bare = _BARE_BOX.match(text, token.end())
            if bare:
                attempted = True
                closed.append(Box(token.start(), bare.end(), bare.group().rstrip(".,")))
    return closed, attempted


def unbox(text: str) -> str:
    r"""Remove box commands and keep what they hold: ``x = \boxed{5}`` gives ``x = {5}``."""
    if "box" not in text:
        return text
    return re.sub(r"\\{1,2}(?:boxed|fbox|framebox)(?![a-zA-Z])", "", text)


def _last_run(text: str, found_boxes: list[Box]) -> str:
    """The last box, together with the boxes before it that only a separator divides from it."""
    contents: list[str] = []  # from the last box to the first of the run
    next_start = None
    for box in reversed(found_boxes):
        if next_start is not None and not _joined(text[box.end : next_start]):
            break
        content = unbox(box.content).strip()
        if not contents or contents[-1] != content:  # an answer that is repeated counts once
            contents.append(content)
        next_start = box.start
    return ",".join(reversed(contents))


def _joined(between: str) -> bool:
    """Whether the text between two boxes or formulas makes them parts of one answer."""
    if len(between) > 60 or "\n\n" in between or _TURNING.search(between):
        return False

    # spacing and delimiters do not divide, and a separator joins
    glue = _GLUE.sub("", between)
    if not glue:
        return True
    return len(glue) <= 30 and "." not in glue and bool(_SEPARATED.search(glue))


def _stated_after(text: str, position: int) -> str:
    """What the last "final answer is ..." behind `position` states; empty when there is none."""
    phrases = list(_FINAL_ANSWER_IS.finditer(text, position))
    if not phrases:
        return ""
    return _sentence_answer(text[phrases[-1].end() :])


def _tagged(text: str) -> str:
    """What the last answer tag holds, if no box follows it; else the text itself.

    A tag that is never closed holds no answer.
    """
    tags = list(_ANSWER_TAG.finditer(text))
    if not tags:
        return text

    # up to the closing tag; one that is not closed holds no answer
    content_start = tags[-1].end()
    end = text.casefold().find(f"</{tags[-1]['name'].casefold()}>", content_start)
    if end < 0:
        return ""
    boxes_behind, _ = boxes(text[end:])
    return text if boxes_behind else text[content_start:end]


def _unboxed(text: str) -> str:
    """Rule 4: the answer of a text without boxes, or an empty string."""
    stripped = text.strip()
    if _DENIED.search(stripped[-200:]):
        return ""
    return _answer_after(stripped) or _bare(stripped) or _last_span(stripped[-MAX_ANSWER:])


def _answer_after(text: str) -> str:
    """What the last "answer is" of a text states; empty without one."""
    phrases = list(_ANSWER_IS.finditer(text))
    return _sentence_answer(text[phrases[-1].end() :]) if phrases else ""


def _sentence_answer(text: str) -> str:
    """The answer in the first sentence of `text`, which follows "the answer is"."""
    sentence = text.lstrip(" *:\n")
    end = _SENTENCE_END.search(sentence)
    if end:
        sentence = sentence[: end.start()]
    return _bare(sentence) or _last_span(sentence)


def _bare(text: str) -> str:
    """The text without its full stop if it is an expression and nothing else; otherwise empty."""
    text = text.strip().removesuffix(".").strip("* \n")
    text = text.rpartition("\n=")[2].strip()  # of a computation in lines, the last
    if not text or len(text) > 300 or "\n\n" in text or _PROSE.search(text) or _LABEL.match(text):
        return ""

    # of a formula with words around it, the formula is the answer
    if _WORD.search(_SPAN.sub("", text)) and ("$" in text or "\\(" in text):
        return ""
    return text


def _last_span(text: str) -> str:
    """The last formula, bold text or number, with the formulas that a separator joins to it."""
    # an equation without delimiters, at the very end
    equation = _EQUATION_AT_END.search(text.rstrip(" .\n")[-100:])
    if equation:
        return equation.group()

    contents: list[str] = []  # from the last span to the first of the run
    next_start = None
    for span in reversed(list(_SPAN.finditer(text))):
        is_formula = span.lastgroup not in ("number", "bold")
        if next_start is not None and not (is_formula and _joined(text[span.end() : next_start])):
            break

        # bold text counts if it holds a number; in prose that number is the answer
        content = (span.group(str(span.lastgroup)) or "").strip()
        if span.lastgroup == "bold":
            numbers = re.findall(_NUMBER + r"(?:\s?\\?%)?", content)
            if not numbers:
                continue
            if _PROSE.search(content):
                content = numbers[-1]

        # a percent sign behind the span belongs to it
        if _PERCENT.match(text, span.end()):
            content += r"\%"
        contents.append(content)
        if not is_formula:
            break
        next_start = span.start()
    return ",".join(reversed(contents))

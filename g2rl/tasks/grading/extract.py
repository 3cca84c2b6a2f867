r"""Find the final answer in model output: linear in the length of the text, and without
understanding it.

Policy; the first rule that applies decides:

1. Reasoning does not count. Only the text after the last ``</think>`` is read; a ``<think>`` that
   was never closed means that the model did not come to an answer.
2. The text ends at the first end-of-turn marker, and only its last `MAX_TAIL` characters are read.
3. The last ``\boxed{...}`` (or ``\fbox{...}``, or ``\boxed 5``) is the answer. Boxes joined by
   nothing but a separator ("\boxed{1} and \boxed{2}") are one answer in parts. A box that is never
   closed is not an answer, nor is an empty one.
4. Without any box (and unless `boxed_only`): what follows the last "answer is" or "Answer:"; else
   the whole text when it is one bare expression; else the last formula, bold text or number.

Answers hold neither null bytes nor lone surrogates, whatever the completion holds.
"""

from __future__ import annotations

import re

MAX_TAIL = 20_000
"""Characters of a completion that are read, counted from its end."""
MAX_ANSWER = 2_000
"""An answer longer than this (characters) is no answer."""
MAX_DEPTH = 60
"""An answer whose brackets nest deeper than this is no answer."""

_TURN_END = re.compile(
    r"<\|(?:im_start|im_end|endoftext|eot_id|end_of_text|end)\|>|</s>|<end_of_turn>"
)
_TOKEN = re.compile(
    r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])\s{0,5}(?P<brace>\{)?|\\[^a-zA-Z]|[{}]", re.DOTALL
)
_BARE_BOX = re.compile(r"-?[0-9][0-9.,/]{0,60}|-?\\?[A-Za-z]{1,20}")
_GLUE = re.compile(r"\\[()\[\],;: !]|\\q?quad|\\(?:text|mathrm)\s?\{|[${}\s]")
_SEPARATED = re.compile(r"(?:[,;，；、&]|and|or)(?:[A-Za-z]{1,3}(?:_\w{1,3})?=)?$")
_TURNING = re.compile(
    r"\b(?:so|thus|hence|therefore|but|wait|actually|instead|no|not|then|now|finally)\b"
)
_ANSWER_IS = re.compile(
    r"\banswer\b(?:\*\*)?(?:\s?[:：=]|[^\n.:：$\\]{0,80}?\b(?:is|are|equals)\b\s?:?|(?=\s?(?:\$|\\[(\[])))"
    r"|答案\s?(?:是|为|為|[:：])",
    re.IGNORECASE,
)
_FINAL_ANSWER_IS = re.compile(
    r"\bfinal answer(?: is\b|\s?[:：])(?!\s?(?:the )?final answer)\s?:?", re.I
)
_SENTENCE_END = re.compile(
    r"\n\s{0,8}\n|(?<=[^\s.])\.(?=\s{1,3}[A-Z])|。|\s(?=I hope it is correct)"
)
_NUMBER = (
    r"(?<![A-Za-z0-9_.,/])-?(?:\d{1,40}(?:,\d{1,40}){0,9}(?:\.\d{1,40})?|\.\d{1,40})(?:/\d{1,40})?"
)
_SPAN = re.compile(
    r"\$\$(?P<display>[^$]{1,2000})\$\$"
    r"|(?<![\\$])\$(?P<inline>(?:[^$\\]|\\.){1,2000})\$"
    r"|\\\((?P<paren>(?:[^\\]|\\[^()]){1,2000})\\\)"
    r"|\\\[(?P<bracket>(?:[^\\]|\\[^\[\]]){1,2000})\\\]"
    r"|(?P<frac>-?\\[dtc]?frac\s?\{[^{}]{1,40}\}\s?\{[^{}]{1,40}\})"
    r"|\*\*(?P<bold>[^*\n]{1,200})\*\*"
    rf"|(?P<number>{_NUMBER})",
    re.DOTALL,
)
_PERCENT = re.compile(r"\s{0,2}(?:\\?%|percent\b)")
_PROSE = re.compile(
    r"(?<![\\A-Za-z{])[A-Za-z]{2,30}\s+[A-Za-z]{2,30}\b|[\u0590-\u1fff\u3040-\uffff]"
)

_LABEL = re.compile(
    r"(?!(?:pi|sqrt|sin|cos|tan|log|ln)\b)[A-Za-z]{2,30}[ :]{1,3}(?=.{0,300}[\d$\\])", re.DOTALL
)
_WORD = re.compile(r"[A-Za-z]{2}")


def extract_answer(completion: str, boxed_only: bool = False) -> str | None:
    """The final answer of a completion as the model wrote it, or None when there is none to read.

    With `boxed_only`, rule 4 is off: an answer outside a box counts as no answer.
    """
    # the last box, unless something later is stated
    text = final_text(completion)
    found, attempted = boxes(text)
    stated = None if boxed_only else _stated_after(text, found[-1][1] if found else 0)
    if attempted:
        answer = stated or _last_run(text, found)
    elif boxed_only:
        return None
    else:
        answer = _unboxed(text)

    # an answer has a bounded length and depth
    answer = answer.strip()
    if not answer or len(answer) > MAX_ANSWER or too_deep(answer):
        return None
    return answer


def last_boxed(text: str) -> str | None:
    """What the last closed box of a text holds (a solution, not model output); None without a
    box."""
    found, _ = boxes(text)
    return unbox(found[-1][2]).strip() if found else None


def final_text(completion: str) -> str:
    """The part of a completion that may hold the answer (rules 1 and 2); empty when there is
    none."""
    # what follows the reasoning
    _, _, tail = completion.rpartition("</think>")
    if "<think>" in tail:
        return ""
    tail = tail.lstrip()

    # up to the end of the turn
    end = _TURN_END.search(tail, 1)
    return clean((tail[: end.start()] if end else tail)[-MAX_TAIL:])


def clean(text: str) -> str:
    """Replace lone surrogates by "?" and drop null bytes, so that any file format can hold the
    text."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def too_deep(text: str, limit: int = MAX_DEPTH) -> bool:
    """Whether brackets of any kind nest deeper than `limit`; one pass, no recursion."""
    depth = 0

    # one pass, brackets of any kind
    for char in text:
        if char in "([{":
            depth += 1
            if depth > limit:
                return True
        elif char in ")]}":
            depth = max(0, depth - 1)
    return False


def boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    r"""All closed outermost boxes as (start, end, content), and whether any box was begun at all.

    One pass with a stack: ``boxes(r"is \boxed{2}")`` is ``([(3, 12, "2")], True)``.
    """
    found: list[tuple[int, int, str]] = []
    stack: list[
        tuple[int, int] | None
    ] = []  # (start of the box, start of its content); None: plain brace
    attempted = False
    for token in _TOKEN.finditer(text):
        # a box, a brace, or an escaped character
        symbol = token.group()
        if token.group("brace"):
            attempted = True
            stack.append((token.start(), token.end()))
        elif symbol == "{":
            stack.append(None)
        elif symbol == "}" and stack:
            opened = stack.pop()
            if opened is not None:
                while found and found[-1][0] > opened[0]:
                    found.pop()  # an inner box, which the outer one contains
                found.append((opened[0], token.end(), text[opened[1] : token.start()]))
        elif "box" in symbol:
            attempted = True
            bare = _BARE_BOX.match(text, token.end())
            if bare:
                found.append((token.start(), bare.end(), bare.group().rstrip(".,")))
    return found, attempted


def _last_run(text: str, found: list[tuple[int, int, str]]) -> str:
    """The last box, together with the boxes before it that only a separator divides from it."""
    parts: list[str] = []
    next_start = None

    # backwards, as long as only separators stand between
    for start, end, content in reversed(found):
        if next_start is not None and not _joined(text[end:next_start]):
            break
        content = unbox(content).strip()
        if not parts or parts[-1] != content:
            parts.append(content)
        next_start = start
    return ",".join(reversed(parts))


def _joined(between: str) -> bool:
    """Whether the text between two boxes or formulas makes them parts of one answer."""
    if len(between) > 60 or "\n\n" in between or _TURNING.search(between):
        return False

    # spacing and delimiters do not divide
    glue = _GLUE.sub("", between)
    return not glue or (len(glue) <= 30 and "." not in glue and bool(_SEPARATED.search(glue)))


def _stated_after(text: str, position: int) -> str:
    """What "final answer is ..." says behind the last box: the later statement stands."""
    phrases = list(_FINAL_ANSWER_IS.finditer(text, position))
    return _sentence_answer(text[phrases[-1].end() :]) if phrases and position else ""


def unbox(text: str) -> str:
    r"""Remove box commands and keep what they hold: ``x = \boxed{5}`` gives ``x = {5}``."""
    return re.sub(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])", "", text) if "box" in text else text


def _unboxed(text: str) -> str:
    """Rule 4: the answer of a text without boxes, or an empty string."""
    # after the phrase, else the whole text, else the last formula
    stripped = text.strip()
    phrases = list(_ANSWER_IS.finditer(stripped))
    answer = _sentence_answer(stripped[phrases[-1].end() :]) if phrases else ""
    return answer or _bare(stripped) or _last_span(stripped[-MAX_ANSWER:])


def _sentence_answer(text: str) -> str:
    """The answer in the first sentence of `text`, which follows "the answer is"."""
    # the first sentence
    rest = text.lstrip(" *:\n")
    end = _SENTENCE_END.search(rest)
    sentence = rest[: end.start()] if end else rest
    return _bare(sentence) or _last_span(sentence)


def _bare(text: str) -> str:
    """The text itself when it is an expression and nothing else, without its full stop; else
    empty."""
    text = text.strip().removesuffix(".").strip("* \n")
    if not text or len(text) > 300 or "\n\n" in text or _PROSE.search(text) or _LABEL.match(text):
        return ""

    # a formula with words around it
    if _WORD.search(_SPAN.sub("", text)) and ("$" in text or "\\(" in text):
        return ""  # a formula with words around it: the formula is the answer
    return text


def _last_span(text: str) -> str:
    """The last formula, bold text or number, with the ones joined to it by a separator."""
    parts: list[str] = []
    next_start = None

    # backwards, as long as formulas are joined
    for span in reversed(list(_SPAN.finditer(text))):
        is_formula = span.lastgroup not in ("number", "bold")
        if next_start is not None and not (is_formula and _joined(text[span.end() : next_start])):
            break

        # bold text counts for its number
        content = (span.group(str(span.lastgroup)) or "").strip()
        if span.lastgroup == "bold":
            numbers = re.findall(_NUMBER + r"(?:\s?\\?%)?", content)
            if not numbers:
                continue  # emphasis, not an answer
            content = numbers[-1] if _PROSE.search(content) else content

        # a percent sign behind it belongs to it
        percent = _PERCENT.match(text, span.end())
        parts.append(content + (r"\%" if percent else ""))
        if not is_formula:
            break
        next_start = span.start()
    return ",".join(reversed(parts))

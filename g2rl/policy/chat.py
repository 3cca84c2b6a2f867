"""Chat templates: which one a tokenizer has, what it renders, and how it ends a turn.

A template is a program of the checkpoint's. Three things about it must not be left to chance: the
day on which it runs (some templates write today's date), the token with which it closes a turn of
the assistant, and control tokens that stand in a problem's text.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from g2rl.types import Tokenizer

DATE = "2025-01-01"
"""What a template that writes today's date is told; the default of `model.date`."""
CUTS = ("\ue000", "\ue001", "\ue002")
"""Characters of private use, one of which marks where a control token in a text is cut apart."""
ANSWER = "ANSWER\ue003"
"""A text that no template writes itself."""
DIRECTIVES = "aAbBcCdDefFgGhHIjklmMnpPrRStTuUVwWxXyYzZ"
"""What may stand behind % in a format of dates."""
PERCENT = "\ue004"
"""Stands for a percent sign, written %%, until all directives are replaced."""
_DATE_OF_TOKENIZER = "_g2rl_date"


class ModelError(RuntimeError):
    """A model or tokenizer could not be found, read or used."""


def pin_date(tokenizer: Tokenizer, date: str) -> None:
    """Let the tokenizer's chat template take a fixed day for today.

    Without this a run that is continued tomorrow would train on other prompts.

    Args:
        tokenizer: remembers the day; nothing of it is saved with its files.
        date: as 2025-01-01.

    Raises:
        ModelError: the date is not written like this.
    """
    # checked here, because a template may be rendered hours later
    try:
        datetime.date.fromisoformat(date)
    except ValueError as error:
        raise ModelError(f"model.date must be like {DATE}, got {date!r}") from error
    setattr(tokenizer, _DATE_OF_TOKENIZER, date)


def template_of(tokenizer: Tokenizer) -> str | None:
    """The text of the chat template that prompts go through; None if there is none.

    Raises:
        ModelError: there are several, and none of them is named default.
    """
    # transformers reads several templates of one checkpoint as a mapping
    template: Any = tokenizer.chat_template
    if not isinstance(template, Mapping):
        return template
    if "default" in template:
        return template["default"]
    raise ModelError(
        f"the tokenizer has chat templates named {sorted(template)} and none named default; save "
        "it with tokenizer.chat_template set to one of them, or set model.chat=false"
    )


def render(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], prompt: bool) -> str:
    """The text that the chat template makes of messages.

    Args:
        tokenizer: with a template.
        messages: each with a role and its content.
        prompt: whether the template opens a turn of the assistant at the end.
    """
    return tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        tokenize=False,
        add_generation_prompt=prompt,
        chat_template=dated_template(tokenizer),
    )


def dated_template(tokenizer: Tokenizer) -> str | None:
    """The chat template, with the pinned day for today; None if there is no template.

    Templates ask for the time by a function `strftime_now`, which transformers defines and nobody
    else can: it passes no functions on. A macro of the same name in the template itself wins.
    """
    template = template_of(tokenizer)
    if template is None or "strftime_now" not in template:
        return template
    day = datetime.datetime.fromisoformat(getattr(tokenizer, _DATE_OF_TOKENIZER, DATE))

    # every directive becomes what it stands for, of the pinned day at midnight
    values = {"%%": PERCENT}
    for directive in (*DIRECTIVES, *(f"-{letter}" for letter in "deHIjklmMSUVWyY")):
        values[f"%{directive}"] = day.strftime(f"%{directive}")
    values[PERCENT] = "%"
    replacements = ""
    for written, value in values.items():
        replacements += f"|replace({json.dumps(written)}, {json.dumps(value)})"
    macro = "{%- macro strftime_now(format) -%}{{ format" + replacements + " }}{%- endmacro -%}"
    return macro + template


def turn_end(tokenizer: Tokenizer, alone: bool = False) -> int | None:
    """The token that the chat template writes behind what the assistant says.

    It is found by rendering a turn of the assistant, because names tell little: gpt-oss writes
    <|end|> in the middle of a response.

    Args:
        tokenizer: with a chat template or without one.
        alone: render that turn without a user's turn before it, for templates that look at the
            first message only.

    Returns:
        The id of a control token, or None if no such token directly follows the content.
    """
    template = dated_template(tokenizer)
    if not template:
        return None
    # a conversation that ends with what the assistant says
    messages = [{"role": "assistant", "content": ANSWER}]
    if not alone:
        messages = [{"role": "user", "content": "question"}, *messages]

    # a template may refuse these messages, which then says nothing about stop tokens
    variables = getattr(tokenizer, "special_tokens_map", {})
    try:
        [rendered], _ = render_jinja_template(
            conversations=[messages], chat_template=template, **variables
        )
    except Exception:
        return None

    # what stands behind it; nothing, if the template leaves such turns out
    _, is_rendered, behind = rendered.rpartition(ANSWER)
    behind = behind.strip()
    if not is_rendered or not behind:
        return None

    # the longest control token that it begins with
    vocabulary = tokenizer.get_vocab()
    tokens = [token for token in control_tokens(tokenizer) if behind.startswith(token)]
    if tokens:
        return vocabulary[max(tokens, key=len)]

    # a word of a closed vocabulary that nobody has declared special, but that looks like it
    word = behind.split()[0]
    is_bracketed = not word[0].isalnum() and not word[-1].isalnum() and len(word) > 2
    return vocabulary.get(word) if is_bracketed else None


def control_tokens(tokenizer: Tokenizer) -> list[str]:
    """Texts that the tokenizer turns into one control token wherever they stand.

    These are its special tokens, and those added tokens that the chat template writes (<think>).
    Other added tokens, such as runs of spaces, are ordinary text.
    """
    # an end token may be an added token that nobody has marked as special
    template = template_of(tokenizer) or ""
    declared = getattr(tokenizer, "all_special_tokens", ())
    found: list[str] = []
    for token in getattr(tokenizer, "added_tokens_decoder", {}).values():
        is_control = token.special or token.content in declared or token.content in template
        if is_control and token.content.strip():
            found.append(token.content)
    return found


def cut_control_tokens(tokenizer: Tokenizer, text: str) -> tuple[str, str | None]:
    """Mark in a text where control tokens have to be cut apart to stay plain text.

    Args:
        tokenizer: of the policy.
        text: of a problem.

    Returns:
        The text with a mark inside every control token, and the mark; None if there is nothing to
        cut. Whoever encodes the parts between marks one by one gets no control token.

    Raises:
        ModelError: the text holds all characters that could serve as the mark, or a control token
            of one character.
    """
    # most texts hold none
    present = [token for token in control_tokens(tokenizer) if token in text]
    if not present:
        return text, None

    free = [mark for mark in CUTS if mark not in text]
    if not free or any(len(token) < 2 for token in present):
        raise ModelError(f"the text holds {present}, which cannot be encoded as plain text")

    # the longest first, since one may be a part of another
    for token in sorted(present, key=len, reverse=True):
        text = text.replace(token, token[0] + free[0] + token[1:])
    return text, free[0]

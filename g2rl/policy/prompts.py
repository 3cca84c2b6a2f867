"""Turn the text of a prompt into token ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from g2rl.policy.chat import ModelError, cut_control_tokens, render, template_of
from g2rl.types import Tokenizer

_SYSTEM_PROMPT = "_g2rl_system_prompt"
QUOTABLE = re.compile(r"[\x00-\x1f\"'<>&\\\x7f-\U0010ffff]")
"""Characters that a template may write in another way: JSON and HTML quote them."""


def set_system_prompt(tokenizer: Tokenizer, text: str | None) -> None:
    """Let every prompt that goes through the chat template begin with a system turn.

    Args:
        tokenizer: remembers the text; nothing of it is saved with its files.
        text: what the system turn says; None for no such turn. Some templates then write one of
            their own.
    """
    setattr(tokenizer, _SYSTEM_PROMPT, text)


def messages_of(tokenizer: Tokenizer, text: str) -> list[dict[str, str]]:
    """The turns of a prompt: the system turn, if one is set, and the user's.

    Args:
        tokenizer: see `set_system_prompt`.
        text: what the user turn says.
    """
    messages = [{"role": "user", "content": text}]
    system: str | None = getattr(tokenizer, _SYSTEM_PROMPT, None)
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return messages


def refuse_lost_system(messages: Sequence[Mapping[str, str]], rendered: str) -> None:
    """Refuse a chat template that passes over the system turn without a word.

    Raises:
        ModelError: the system prompt is not in the rendered text.
    """
    first = messages[0]
    if first["role"] == "system" and first["content"].strip() not in rendered:
        raise ModelError(
            f"the chat template leaves out model.system_prompt ({first['content'][:80]!r}): set it "
            "to null, and put the words into the user turn with task.source.instruction"
        )


def refuse_lost_text(messages: Sequence[Mapping[str, str]], rendered: str) -> None:
    """Refuse a chat template that passes over what the user says.

    Some templates want a list of parts in the place of a text, and render nothing of a text.

    Raises:
        ModelError: the user's words are not in the rendered text.
    """
    # a template may trim or quote a text, so the longest piece that quoting leaves alone counts
    text = messages[-1]["content"]
    longest = max(QUOTABLE.split(text), key=len).strip()
    if longest not in rendered:
        raise ModelError(
            f"the chat template leaves out the prompt ({text[:80]!r}): it renders no content that "
            "is plain text; save the tokenizer with a template that does, or set model.chat=false"
        )


def encode_prompt(
    tokenizer: Tokenizer, text: str, chat: bool, max_tokens: int | None = None
) -> list[int]:
    """Token ids of a prompt.

    Control tokens that stand in the text itself, such as <|im_end|> in a problem, are encoded as
    the plain text that they are: only the chat template writes control tokens.

    Args:
        tokenizer: of the policy.
        text: what the user turn says.
        chat: render the text as one user turn through the tokenizer's chat template, behind the
            system turn of `set_system_prompt`; otherwise it is encoded as it stands, without an end
            token behind it.
        max_tokens: longest prompt that is allowed; None allows any.

    Raises:
        ModelError: the tokenizer has no chat template, the text has words outside a closed
            vocabulary, or the prompt is longer than `max_tokens`.
    """
    if chat and not template_of(tokenizer):
        raise ModelError(
            "the tokenizer has no chat template; set model.chat=false to use plain prompts"
        )

    try:
        ids = _encode_parts(tokenizer, text, chat)
    except ModelError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for a word outside the vocabulary
        raise ModelError(
            f"the tokenizer cannot encode the prompt {text[:80]!r}: {error}. The built-in "
            "policies speak only the words of their own tasks: tiny those of task=countdown and "
            "task=countdown_hard, detour and forked_skills those of the tasks of these names; pick "
            "another model= for this task"
        ) from error

    # the caller has to leave over-long problems out: a cut prompt is another problem
    if max_tokens is not None and len(ids) > max_tokens:
        raise ModelError(
            f"a prompt has {len(ids)} tokens, over task.max_prompt_tokens={max_tokens}: "
            f"{text[:80]!r}"
        )
    return ids


def _encode_parts(tokenizer: Tokenizer, text: str, chat: bool) -> list[int]:
    """Token ids of a prompt, in which control tokens of the text are encoded in two parts."""
    # marks survive the template, which may trim the text or quote it
    marked_text, mark = cut_control_tokens(tokenizer, text)
    if chat:
        messages = messages_of(tokenizer, marked_text)
        marked_text = render(tokenizer, messages, prompt=True)
        refuse_lost_system(messages, marked_text)
        refuse_lost_text(messages, marked_text)
    parts = [marked_text] if mark is None else marked_text.split(mark)

    # a chat template has written the special tokens, behind which nothing is added
    ids = _encode(tokenizer, parts[0]) if chat else _encode_plain(tokenizer, parts[0])
    for part in parts[1:]:
        ids += _encode(tokenizer, part)
    return ids


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text, in which control tokens are recognised and none is added."""
    return list(tokenizer.encode(text, add_special_tokens=False)) if text else []


def _encode_plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a text behind the special tokens that the tokenizer puts before every text.

    A tokenizer with `add_eos_token` puts an end token behind it too. That would tell the model that
    the response is over, so it is left out.
    """
    with_special = list(tokenizer.encode(text))
    plain = _encode(tokenizer, text)

    # whatever stands behind the last token of the text itself
    for end in range(len(with_special), len(plain) - 1, -1):
        if with_special[end - len(plain) : end] == plain:
            return with_special[:end]
    return with_special

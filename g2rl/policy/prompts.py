"""Prompts as token ids."""

from __future__ import annotations

from g2rl.policy.loading import ModelError
from g2rl.types import Tokenizer


def encode_prompt(
    tokenizer: Tokenizer, text: str, chat: bool, max_tokens: int | None = None
) -> list[int]:
    """Token ids of one user turn, through the model's chat template or (chat=False) as plain text.

    Raises:
        ModelError: no chat template, words outside a closed vocabulary, or a prompt over
        `max_tokens`.
    """
    if chat and not tokenizer.chat_template:
        raise ModelError(
            "the tokenizer has no chat template; set model.chat=false to use plain prompts"
        )

    # render the chat template, then encode it: the template writes the special tokens itself
    try:
        if chat:
            messages = [{"role": "user", "content": text}]
            rendered = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            ids = tokenizer.encode(rendered, add_special_tokens=False)
        else:
            ids = tokenizer.encode(text)
    except Exception as error:  # tokenizers raises bare Exception for a word outside the vocabulary
        raise ModelError(
            f"the tokenizer cannot encode the prompt {text[:80]!r}: {error}. The built-in tiny policy "
            "speaks only the words of task=countdown; pick another model= for this task"
        ) from error

    # too long
    if max_tokens is not None and len(ids) > max_tokens:
        raise ModelError(
            f"a prompt has {len(ids)} tokens, over task.max_prompt_tokens={max_tokens}: {text[:80]!r}"
        )
    return list(ids)

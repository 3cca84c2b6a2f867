"""Turn the text of a prompt into token ids."""

from __future__ import annotations

from g2rl.policy.loading import ModelError
from g2rl.types import Tokenizer


def encode_prompt(
    tokenizer: Tokenizer, text: str, chat: bool, max_tokens: int | None = None
) -> list[int]:
    """Token ids of a prompt.

    Args:
        tokenizer: of the policy.
        text: what the user turn says.
        chat: render the text as one user turn through the tokenizer's chat template; otherwise it
            is encoded as it stands.
        max_tokens: longest prompt that is allowed; None allows any.

    Raises:
        ModelError: the tokenizer has no chat template, the text has words outside a closed
            vocabulary, or the prompt is longer than `max_tokens`.
    """
    if chat and not tokenizer.chat_template:
        raise ModelError(
            "the tokenizer has no chat template; set model.chat=false to use plain prompts"
        )

    try:
        if chat:
            messages = [{"role": "user", "content": text}]
            rendered = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
            # the template has written the special tokens
            ids = tokenizer.encode(rendered, add_special_tokens=False)
        else:
            ids = tokenizer.encode(text)
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
    return list(ids)

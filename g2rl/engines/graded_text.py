"""The text of a completion as the grader must read it, with all markers of reasoning.

A decoded completion lacks two things that decide where its answer stands. A chat template may open
the reasoning in the prompt ("<think>"), and decoding drops markers of reasoning that are special
tokens ("[THINK]", "<|channel|>"). `with_markers` puts both back. And a completion that the token
limit ended counts
only with what it has put into a box: `graded_item` tells the verifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from g2rl.tasks.grading.reasoning import CUT_OFF, MARKERS, opened_by
from g2rl.types import Completion, Problem, Tokenizer

PROMPT_END = 64
"""Tokens at the end of a prompt in which a marker may stand that it leaves open."""
_CHANNEL_TOKENS = ("<|channel|>", "<|message|>")


def with_markers(
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Completion]],
) -> list[list[Completion]]:
    """The completions with all markers of reasoning in their texts.

    Args:
        tokenizer: of the policy.
        prompts: token ids of P prompts.
        completions: P lists of completions of them.
    """
    special_markers = marker_tokens(tokenizer)

    # one prompt opens the same for all of its completions
    marked: list[list[Completion]] = []
    for prompt, group in zip(prompts, completions, strict=True):
        opened = opened_by(tokenizer.decode(list(prompt[-PROMPT_END:])))
        texts: list[Completion] = []
        for completion in group:
            # decoding again is needed only if it dropped a marker
            text = completion.text
            if special_markers.intersection(completion.token_ids):
                is_stopped = completion.finish == "stop"  # the last token then ends the turn
                response = completion.token_ids[:-1] if is_stopped else completion.token_ids
                text = tokenizer.decode(list(response), skip_special_tokens=False)
            texts.append(replace(completion, text=opened + text))
        marked.append(texts)
    return marked


def marker_tokens(tokenizer: Tokenizer) -> set[int]:
    """Ids of the special tokens that are markers of reasoning, which decoding leaves out."""
    # the names of all markers
    names = {*_CHANNEL_TOKENS}
    for opening, closing in MARKERS:
        names |= {opening, closing}

    # a tokenizer without added tokens has no such table
    found: set[int] = set()
    for token_id, token in getattr(tokenizer, "added_tokens_decoder", {}).items():
        # of some markers the token is only the beginning: <|channel> of <|channel>thought
        begins_a_marker = any(name.startswith(token.content) for name in names)
        if token.special and token.content and begins_a_marker:
            found.add(token_id)
    return found


def graded_item(text: str, finish: str, problem: Problem) -> tuple[str, Problem]:
    """What a grader is given of a completion: its text, marked if the token limit ended it.

    Args:
        text: of the completion.
        finish: "stop" or "length".
        problem: that it answers.
    """
    return (text + CUT_OFF if finish == "length" else text), problem

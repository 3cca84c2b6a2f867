"""A sampled response as text for a terminal: what was asked, what came, and the verdict."""

from __future__ import annotations

from g2rl.types import Completion, Verdict

MOST_CHARACTERS = 600
"""Of a prompt or a response that is shown; the middle of a longer one is left out."""


def shown(prompt: str, completion: Completion, verdict: Verdict | None) -> str:
    """A few lines about one response.

    Args:
        prompt: what was asked.
        completion: what came.
        verdict: what the verifier says of it; None where nothing graded it.
    """
    judged = "not graded"
    if verdict is not None:
        word = "right" if verdict.correct else "wrong"
        answer = "none" if verdict.answer is None else cut(verdict.answer, 60)
        judged = f"{word} (answer: {answer})"

    # the end of a response tells as much as its beginning
    count = len(completion.token_ids)
    tokens = "1 token" if count == 1 else f"{count} tokens"
    if completion.finish == "length":
        tokens += ", cut off"
    return f"? {cut(prompt)}\n> {cut(completion.text)}\n= {judged}, {tokens}\n"


def cut(text: str, most: int = MOST_CHARACTERS) -> str:
    """A text of at most so many characters and a mark, without its middle if it is longer.

    Control characters are shown as spaces, because a response may hold any.
    """
    # control characters of a response would act on the terminal
    printable = "".join(
        letter if letter.isprintable() or letter == "\n" else " " for letter in text
    )
    printable = printable.strip()
    if len(printable) <= most:
        return printable

    # the beginning and the end say most: how the question was read, and the answer
    half = most // 2
    return f"{printable[:half]} [...] {printable[-half:]}"

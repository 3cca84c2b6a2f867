"""The tiny policy's tokenizer and architecture.

It has 84 words, 464,960 parameters (0.46M) and the layout of Qwen3.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast, Qwen3Config

from g2rl.tasks.countdown import LARGEST_VALUE
from g2rl.tasks.word_policy import small_qwen3, word_tokenizer

# the vocabulary besides the special tokens: words, the box, and the integers from 0
WORDS = (
    "use",
    "make",
    ":",
    "try",
    "off",
    "no",
    "yes",
    "back",
    "calc",
    "so",
    ",",
    "=",
    "+",
    "-",
    "*",
    "/",
    "(",
    ")",
)
BOX = ("\\boxed{", "}")
WIDTH, INNER_WIDTH = 128, 256


def vocabulary() -> list[str]:
    """Every word of the tiny policy but the special ones; integers go up to 60."""
    return [*WORDS, *BOX, *(str(n) for n in range(LARGEST_VALUE + 1))]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, with one token for each word and for each integer."""
    return word_tokenizer(vocabulary())


def build_config(vocabulary: int) -> Qwen3Config:
    """The architecture of the tiny policy, for a vocabulary of this size."""
    return small_qwen3(vocabulary, WIDTH, INNER_WIDTH)

"""Tokenizer and architecture of the small policies that ship with g2rl.

Each speaks a closed vocabulary of words that are set apart by spaces, and has the layout of Qwen3.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, Qwen3Config

SPECIALS = ("<pad>", "<bos>", "<eos>")
"""The first three words of every vocabulary."""
CHAT_TEMPLATE = "{{ bos_token }} {{ messages[0]['content'] }}"


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each special word and each of `words`, in this order.

    There is no <unk>: a word outside the vocabulary is an error.
    """
    # the order of the words is part of a policy: ids are places in it
    core = Tokenizer(WordLevel({word: id_ for id_, word in enumerate([*SPECIALS, *words])}))
    core.pre_tokenizer = WhitespaceSplit()

    # the form that transformers saves and loads
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def small_qwen3(vocabulary: int, width: int, inner_width: int) -> Qwen3Config:
    """Three layers of Qwen3.

    Args:
        vocabulary: the number of tokens.
        width: of the hidden states.
        inner_width: of the MLP.
    """
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # the smallest that vLLM runs on a CPU
        intermediate_size=inner_width,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )

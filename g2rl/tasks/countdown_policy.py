"""The tiny policy's tokenizer and architecture.

It has 84 words, 464,960 parameters (0.46M) and the layout of Qwen3.
"""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, Qwen3Config

from g2rl.tasks.countdown import LARGEST_VALUE

# the vocabulary: special tokens, words, the box, and the integers from 0 to LARGEST_VALUE
SPECIALS = ("<pad>", "<bos>", "<eos>")
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
CHAT_TEMPLATE = "{{ bos_token }} {{ messages[0]['content'] }}"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each word and for each integer from 0 to 60.

    There is no <unk>: a word outside the vocabulary is an error.
    """
    words = [*SPECIALS, *WORDS, *BOX, *(str(n) for n in range(LARGEST_VALUE + 1))]
    core = Tokenizer(WordLevel({word: id_ for id_, word in enumerate(words)}))
    core.pre_tokenizer = WhitespaceSplit()

    # the form that transformers saves and loads
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_config(vocabulary: int) -> Qwen3Config:
    """The architecture of the tiny policy, for a vocabulary of this size."""
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # the smallest that vLLM runs on a CPU
        intermediate_size=256,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )

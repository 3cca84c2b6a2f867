"""The parts of a causal LM, whatever its architecture calls them.

A model that reads images or speech too has a nested configuration and wraps its language model.
Whoever asks for a width or a number of layers wants those of the language model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn


class UnsupportedModelError(ValueError):
    """g2rl cannot train or score this model with right numbers; the message says what can."""


POSITION_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "n_ctx",
    "max_target_positions",
)
"""Under which names configurations keep the number of positions."""

LENGTH_KEY = re.compile(
    "(?!.*(layers|pattern)).*(window|chunk|topk|floor_scale|original_max_position)"
)
"""Keys of a configuration that may hold a length from which on a model computes otherwise: windows
and chunks of attention, tokens that sparse attention keeps, steps of a scale."""


def text_config(config: Any) -> Any:
    """The part of a model's configuration that describes its language model.

    Args:
        config: of transformers; a flat one is returned as it is.
    """
    # a plain object in the place of a configuration is flat
    find = getattr(config, "get_text_config", None)
    if find is None:
        return config
    return find(decoder=True)


def positions_of(config: Any) -> int | None:
    """How many tokens the model was made for; None if its configuration sets no limit.

    Args:
        config: of the whole model, nested or flat.
    """
    # transformers maps most older names to the first
    text = text_config(config)
    for key in POSITION_KEYS:
        limit = getattr(text, key, None)

        # a negative number stands for no limit in some configurations
        if isinstance(limit, int) and limit > 0:
            return limit
    return None


def length_switches(config: Any) -> dict[int, str]:
    """Numbers of tokens from which on a model may compute otherwise, with the key of each.

    Args:
        config: of the whole model, nested or flat.
    """
    # what a layer type sets lies one or two levels down
    found: dict[int, str] = {}
    left: list[Mapping[str, Any]] = [text_config(config).to_dict()]
    while left:
        for name, value in left.pop().items():
            if isinstance(value, Mapping):
                left.append(value)
            elif LENGTH_KEY.match(str(name)) and type(value) in (int, float) and value > 0:
                found[int(value)] = str(name)
    return dict(sorted(found.items()))


def longrope_switch(config: Any) -> int | None:
    """Up to how many tokens a model with longrope computes every text by itself; None without it.

    As soon as one text of a batch is longer, the positions of all of them turn by other factors,
    while keys that lie in a cache keep the old ones.

    Args:
        config: of the whole model, nested or flat.
    """
    text = text_config(config)
    rope = getattr(text, "rope_parameters", None) or {}

    # one kind for all layers, or one for each type of layer
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, Mapping))]
    switches: list[int] = []
    for kind in kinds:
        if kind.get("rope_type") == "longrope":
            # transformers copies it into the kind if it stands beside it
            default = getattr(text, "original_max_position_embeddings", None)
            switches.append(kind.get("original_max_position_embeddings", default))
    return min(switches) if switches else None


def decoder_of(model: Any) -> nn.Module:
    """The model without its head: what turns token ids into last hidden states.

    Raises:
        UnsupportedModelError: no part of the model is known to be that.
    """
    # the usual case: the class names its inner model
    inner = model.base_model
    if inner is not model:
        return inner

    # Llama 4, Mllama: the name in the class is for the multimodal model around it
    for candidate in (model.get_decoder(), getattr(model, "model", None)):
        if candidate is not None and candidate is not model:
            return candidate
    raise UnsupportedModelError(
        f"{type(model).__name__}: base_model and get_decoder() are the model itself, so its last "
        "hidden states are not to be had without its logits; train another architecture"
    )

"""Whether a policy may compute a prompt once for all of its responses, and how it is told to.

Packing is exact where attention is scaled products over all tokens before, or over a window of
them. What an architecture does besides shows in its configuration, in what it asks of its
attention, or in its numbers: all three are looked at before the first rollout.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from g2rl.policy.anatomy import UnsupportedModelError, text_config
from g2rl.policy.batching import MicroBatch, Sequences, make_micro_batch
from g2rl.policy.checks import FAILURES, relative_gap, tolerance_of
from g2rl.policy.packing import pack
from g2rl.policy.prefix_attention import LAYOUT, NAME

SHARING_CHOICES = ("auto", "on", "off")
KNOWN_TYPES = frozenset(
    (
        "cohere2",
        "gemma3_text",
        "glm4",
        "gpt2",
        "gpt_neox",
        "granite",
        "llama",
        "mistral",
        "olmo2",
        "olmo3",
        "opt",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    )
)
"""Types of models for which ``auto`` shares: each has a test against padded rows."""
EXACT_LAYERS = frozenset(("full_attention", "sliding_attention"))
"""Kinds of layers, in the words of configurations, that packing knows."""


class Shareable(Protocol):
    """What `can_share` looks at; `g2rl.policy.policy.Policy` is one."""

    model: Any
    prefix_sharing: str
    training: bool

    @property
    def device(self) -> torch.device:
        """The device of the computation."""
        ...

    @property
    def has_dropout(self) -> bool:
        """Whether the update computes with noise."""
        ...

    @property
    def decoder(self) -> nn.Module:
        """The model without its head."""
        ...

    def hidden(self, batch: MicroBatch) -> Tensor:
        """Last hidden states that predict the response tokens, (T, D)."""
        ...

    def eval(self) -> Any:
        """Switch to evaluation mode."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switch to training mode, or back."""
        ...


def layout_keywords(batch: MicroBatch) -> dict[str, Any]:
    """What a decoder is told besides the tokens of a micro-batch: nothing for padded rows."""
    if batch.layout is None:
        return {}

    # a mask of four axes is handed on as it is, so that none of L x L is made
    no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch.input_ids_BL.device)
    return {
        "position_ids": batch.position_ids_BL,
        "attention_mask": no_mask,
        LAYOUT: batch.layout,
    }


def can_share(policy: Shareable) -> bool:
    """Whether the policy will take packed micro-batches; its model is told to understand them.

    Raises:
        UnsupportedModelError: ``model.prefix_sharing=on``, and something speaks against it.
    """
    # nothing is asked for
    if policy.prefix_sharing == "off":
        return False
    kind = text_config(policy.model.config).model_type
    if policy.prefix_sharing == "auto" and kind not in KNOWN_TYPES:
        return False

    # from here on attention understands layouts; for padded rows it is what it was
    reason = _reason_in_settings(policy)
    if reason is None:
        policy.model.config._attn_implementation = NAME
        reason = _reason_in_numbers(policy)
        if reason is None:
            return True
        policy.model.config._attn_implementation = "sdpa"
    if policy.prefix_sharing == "on":
        raise UnsupportedModelError(
            f"model.prefix_sharing=on: prompts of {type(policy.model).__name__} cannot be shared "
            f"exactly: {reason}; set model.prefix_sharing=off"
        )
    return False


def _reason_in_settings(policy: Shareable) -> str | None:
    """What in the configuration speaks against sharing; None if nothing does."""
    config = text_config(policy.model.config)
    if policy.model.config._attn_implementation != "sdpa":
        return f"it needs model.attention=sdpa, and has {config._attn_implementation}"
    if policy.has_dropout:
        return "the update computes with dropout or other noise, which packed rows draw otherwise"

    # layers that are no attention, or one with another view
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    others = sorted(kinds - EXACT_LAYERS)
    if others:
        return f"it has layers of {', '.join(others)}"
    if not getattr(policy.model, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    return None


@torch.no_grad()
def _reason_in_numbers(policy: Shareable) -> str | None:
    """What a few tokens show: hidden states of packed rows against those of padded ones.

    Two prompts of different lengths, with responses of different lengths.
    """
    vocabulary = policy.model.get_output_embeddings().weight.shape[0]
    prompts = [[(3 + i) % vocabulary for i in range(length)] for length in (9, 4)]
    responses = [[(7 * i + length) % vocabulary for i in range(length)] for length in (5, 1, 11, 6)]
    sequences = Sequences([prompts[0], prompts[1], prompts[0], prompts[0]], responses)
    rows = list(range(len(responses)))

    was_training = policy.training
    policy.eval()
    packed = pack(sequences, rows, policy.device)
    expected = policy.hidden(make_micro_batch(sequences, rows, policy.device))
    try:
        found = policy.hidden(packed)
    except FAILURES as error:
        return f"{type(error).__name__}: {error}"
    finally:
        policy.train(was_training)

    # windows are longer than these rows, so they are read off the calls
    assert packed.layout is not None
    reason = _reason_in_windows(text_config(policy.model.config), packed.layout.windows)
    gap = relative_gap(expected, found)
    if reason is None and not gap < 10 * tolerance_of(expected):
        reason = f"its hidden states change by {gap:.3g}"
    return reason


def _reason_in_windows(config: Any, found: list[int | None]) -> str | None:
    """Whether every layer has told its attention how far it sees.

    Args:
        config: of the language model.
        found: the window of every call of attention, layer by layer.
    """
    layers = config.num_hidden_layers
    if len(found) != layers:
        return f"{len(found)} of its {layers} layers call the attention that understands packing"

    # one window for all layers, or none, where their kinds are not listed; or more than there are
    window = getattr(config, "sliding_window", None)
    usual = "full_attention" if window is None else "sliding_attention"
    kinds = (getattr(config, "layer_types", None) or [usual] * layers)[:layers]
    for number, (kind, seen) in enumerate(zip(kinds, found, strict=True)):
        wanted = window if kind == "sliding_attention" else None
        if seen != wanted:
            return f"layer {number} has a window of {wanted} and tells its attention {seen}"
    return None

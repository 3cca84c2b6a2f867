"""Attention over a packed micro-batch, in which every prompt stands once for all of its responses.

Embeddings, norms, projections and MLPs treat each token by itself and need to know nothing of
packing. Attention takes the prompts as one causal batch and the responses as a few batches of
similar length, whose keys are those of the prompt followed by their own. This is the attention of
padded rows, so nothing changes but the order of sums; autograd sums the gradient of a prompt over
its responses. (verl's PrefixGrouper does the same.)

The layout reaches the attention of every layer as a keyword, which transformers hands down and
which activation checkpointing keeps for the recomputation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from g2rl.policy.anatomy import UnsupportedModelError
from g2rl.policy.prefix_layout import PrefixLayout

NAME = "g2rl_prefix_sharing"
"""Under this name transformers finds `attention`; without a layout it is ``sdpa``."""
LAYOUT = "g2rl_prefix_layout"
"""The keyword by which a layout reaches `attention`."""
HEEDED = frozenset(
    ("sliding_window", "position_ids", "use_cache", "cache_position", "past_key_values")
)
"""Keywords of attention that `attention` heeds, or that ask for nothing here."""


class _ToPadded(torch.autograd.Function):
    """Packed tokens in padded order.

    Nothing sees padding, so its gradient is zero, and the gradient is another choice of rows. That
    of `index_select` would add rows up one by one, which is slow on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, layout: PrefixLayout) -> Tensor:
        """(packed tokens, ...) to (padded tokens, ...)."""
        ctx.layout = layout
        return tokens.index_select(0, layout.to_padded)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Back to packed order."""
        return grads[0].index_select(0, ctx.layout.to_packed_L), None


class _ToPacked(torch.autograd.Function):
    """Tokens in padded order without the padding, which gets no gradient."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, layout: PrefixLayout) -> Tensor:
        """(padded tokens, ...) to (packed tokens, ...)."""
        ctx.layout = layout
        return tokens.index_select(0, layout.to_packed_L)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Back to padded order."""
        layout = ctx.layout
        padded = grads[0].index_select(0, layout.to_padded)
        return padded.index_fill_(0, layout.padding, 0.0), None


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **keywords: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer, as transformers calls it; with a layout, that of a packed batch.

    Args:
        module: the layer's attention.
        query: (1, H, L, d) with a layout, of L packed tokens.
        key, value: (1, K, L, d).
        attention_mask: not looked at with a layout.
        dropout, scaling: of the attention.
        keywords: what else the architecture asks for.

    Returns:
        (1, L, H, d), and None for the weights.

    Raises:
        UnsupportedModelError: the architecture asks for something that the packed form lacks.
    """
    layout: PrefixLayout | None = keywords.pop(LAYOUT, None)
    if layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **keywords
        )

    # a check reads which windows were asked for
    _refuse_unknown(module, keywords, dropout)
    window = keywords.get("sliding_window")
    layout.windows.append(window)

    # in padded order, token by token: (tokens, heads, d)
    parts: list[Tensor] = []
    for part in (query, key, value):
        tokens = part.transpose(1, 2).flatten(0, 1)
        parts.append(_ToPadded.apply(tokens, layout) if layout.is_padded else tokens)

    # prompts attend among themselves, responses to their prompt and to themselves
    outputs = [_of_prompts(module, layout, window, parts, scaling)]
    for number in range(len(layout.blocks)):
        outputs.append(_of_block(layout, number, window, parts, scaling))
    output = torch.cat(outputs)
    if layout.is_padded:
        output = _ToPacked.apply(output, layout)
    return output.unsqueeze(0), None


def _refuse_unknown(module: nn.Module, keywords: dict[str, Any], dropout: float) -> None:
    """Refuse what an architecture asks of its attention beyond scaled products and windows.

    Raises:
        UnsupportedModelError: naming it.
    """
    wishes: list[str] = []
    for name, value in keywords.items():
        if name not in HEEDED and value is not None and value is not False:
            wishes.append(name)

    # noise would be drawn in another order, and packing knows no other direction
    if dropout:
        wishes.append("dropout")
    if not getattr(module, "is_causal", True):
        wishes.append("no causal order")
    if wishes:
        raise UnsupportedModelError(f"{type(module).__name__} asks for {', '.join(wishes)}")


def _of_prompts(
    module: nn.Module,
    layout: PrefixLayout,
    window: int | None,
    parts: Sequence[Tensor],
    scaling: float | None,
) -> Tensor:
    """Attention of the prompts, (P * S, H, d), all padded to one length S."""
    # plain causal attention, by whatever path transformers takes
    count, length = len(layout.prompt_lengths), layout.longest_prompt
    rows: list[Tensor] = []
    for part in parts:
        rows.append(part[: count * length].unflatten(0, (count, length)).transpose(1, 2))
    mask = layout.prompt_mask(window, rows[0])
    output, _ = sdpa_attention_forward(module, *rows, mask, scaling=scaling)
    return output.flatten(0, 1)


def _of_block(
    layout: PrefixLayout,
    number: int,
    window: int | None,
    parts: Sequence[Tensor],
    scaling: float | None,
) -> Tensor:
    """Attention of one block of responses, (n * T, H, d)."""
    block = layout.blocks[number]
    own = slice(block.first, block.first + block.count * block.length)
    shape = (block.count, block.length)
    prompt_count, prompt_length = len(layout.prompt_lengths), layout.longest_prompt

    # keys and values: those of the prompt, then those of the response, (n, K, S + T, d)
    query, keys, values = parts
    joined: list[Tensor] = []
    for part in (keys, values):
        prompts = part[: prompt_count * prompt_length].unflatten(0, (prompt_count, prompt_length))
        if prompt_count == 1:
            prompt_of_row = prompts.expand(block.count, -1, -1, -1)
        else:
            prompt_of_row = prompts.index_select(0, block.prompts_N)
        rows = torch.cat([prompt_of_row, part[own].unflatten(0, shape)], dim=1)
        joined.append(rows.transpose(1, 2))

    # query heads that share a key head stand as more queries, so that no key is repeated
    key_heads, (heads, size) = joined[0].shape[1], query.shape[1:]
    groups = heads // key_heads
    queries = query[own].reshape(*shape, key_heads, groups, size).permute(0, 2, 3, 1, 4)
    output = nn.functional.scaled_dot_product_attention(
        queries.flatten(2, 3),
        joined[0],
        joined[1],
        attn_mask=layout.response_mask(number, window, groups, query),
        scale=scaling,
    )
    output = output.unflatten(2, (groups, block.length)).permute(0, 3, 1, 2, 4)
    return output.reshape(block.count * block.length, heads, -1)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

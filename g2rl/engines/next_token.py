"""Draw the next token of each row by inverse transform from one uniform a row.

`torch.multinomial` consumes a generator shared by the batch, so a sample would depend on its
neighbours. Here row i's token is the first v with cumsum(p)_v > u_i * sum(p): a function of the row
alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g2rl.types import SamplingParams


def next_tokens(logits_BV: Tensor, uniforms_B: Tensor, params: SamplingParams) -> Tensor:
    """Sampled token of each row (int64).

    Args:
        logits_BV: raw logits.
        uniforms_B: one number in [0, 1) a row; ignored when the temperature is 0 (greedy).
    """
    # greedy
    if params.temperature == 0:
        return logits_BV.argmax(-1)

    # the whole distribution
    logits_BV = logits_BV.float() / params.temperature
    if params.top_k == 0 and params.top_p == 1:
        return _invert(logits_BV.softmax(-1), uniforms_B)

    # truncated: tokens by probability, cut at top_k, then at top_p
    probs_BV, order_BV = logits_BV.softmax(-1).sort(dim=-1, descending=True, stable=True)
    if params.top_k:
        probs_BV[:, params.top_k :] = 0
    if params.top_p < 1:
        # keep the smallest head whose mass reaches top_p of what top_k left
        before_BV = probs_BV.cumsum(-1) - probs_BV
        probs_BV = probs_BV.masked_fill(
            before_BV >= params.top_p * probs_BV.sum(-1, keepdim=True), 0
        )
    return order_BV.gather(1, _invert(probs_BV, uniforms_B).unsqueeze(1)).squeeze(1)


def _invert(probs_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """First index whose cumulative mass exceeds u times the total (float64 keeps small tails
    exact)."""
    # where u times the total falls
    mass_BV = probs_BV.double().cumsum(-1)
    point_B1 = uniforms_B.double().unsqueeze(1) * mass_BV[:, -1:]
    index_B = torch.searchsorted(mass_BV, point_B1, right=True).squeeze(1)
    # a uniform of almost 1 may round past the end: fall back on the last token with mass
    last_B = (mass_BV < mass_BV[:, -1:]).sum(-1)
    return torch.minimum(index_B, last_B)

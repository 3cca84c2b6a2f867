"""Draw the next token of each row by inverse transform sampling, from one uniform number a row.

`torch.multinomial` takes its random numbers from a generator that all rows share, so a row's sample
would depend on its neighbours. Here the token of row i is the first v with
cumsum(p)_v > u_i * sum(p), a function of that row alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g2rl.types import SamplingParams


def next_tokens(logits_BV: Tensor, uniforms_B: Tensor, params: SamplingParams) -> Tensor:
    """Draw the next token of each row.

    Args:
        logits_BV: logits as the model gives them, not yet divided by the temperature.
        uniforms_B: one number in [0, 1) a row; not used at temperature 0 (greedy).
        params: temperature and truncation. top_k is applied first, then top_p to what is left.

    Returns:
        Token ids (B,), int64.
    """
    # the limit of a low temperature: nothing is drawn
    if params.temperature == 0:
        return logits_BV.argmax(-1)

    # without truncation the tokens need not be sorted
    logits_BV = logits_BV.float() / params.temperature
    if params.top_k == 0 and params.top_p == 1:
        return _invert(logits_BV.softmax(-1), uniforms_B)

    # truncation works on tokens in order of probability
    probs_BV, order_BV = logits_BV.softmax(-1).sort(dim=-1, descending=True, stable=True)
    if params.top_k:
        probs_BV[:, params.top_k :] = 0

    # nucleus: the fewest tokens whose mass reaches top_p of what top_k left
    if params.top_p < 1:
        mass_before_BV = probs_BV.cumsum(-1) - probs_BV
        needed_B1 = params.top_p * probs_BV.sum(-1, keepdim=True)
        probs_BV = probs_BV.masked_fill(mass_before_BV >= needed_B1, 0)

    # from the rank of the drawn token back to its id
    rank_B = _invert(probs_BV, uniforms_B)
    return order_BV.gather(1, rank_B.unsqueeze(1)).squeeze(1)


def _invert(probs_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """First index whose cumulative mass exceeds u times the row's total, (B,).

    The probabilities need not sum to 1. float64 keeps small tails exact.
    """
    mass_BV = probs_BV.double().cumsum(-1)
    target_B1 = uniforms_B.double().unsqueeze(1) * mass_BV[:, -1:]
    index_B = torch.searchsorted(mass_BV, target_B1, right=True).squeeze(1)

    # a uniform just below 1 may round past the end: then take the last token that has mass
    last_B = (mass_BV < mass_BV[:, -1:]).sum(-1)
    return torch.minimum(index_B, last_B)

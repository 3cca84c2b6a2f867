"""The head that differentiates a loss in its forward: logits are computed once.

A loss that is a sum over tokens needs no more of a tile than its log-probabilities and entropies.
So its gradient for hidden states and head is taken while the tile's probabilities are there: three
products with the head instead of four (Liger Kernel, arXiv 2410.10989, does so for cross-entropy).
The price is that the head's whole gradient is read and written once a tile, so tiles should hold
some hundred rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from g2rl.policy.lm_head.tiles import buffers, chunks, room, tile_logits, tile_scores, tiles

Objective = Callable[[slice, Tensor, Tensor], Tensor]
"""objective(tile, logps, entropies) is the share of the loss of some of the T tokens,
differentiable."""


def _slopes(
    objective: Objective, tile: slice, logps: Tensor, entropies: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The loss of a tile's tokens, and its derivatives for their log-probabilities and
    entropies."""
    # a little graph of the loss alone: the tile's logits are not in it
    leaves = logps.requires_grad_(True), entropies.requires_grad_(True)
    with torch.enable_grad():
        loss = objective(tile, *leaves)
    slope, entropy_slope = torch.autograd.grad(loss, leaves, allow_unused=True)
    return loss.detach(), torch.zeros_like(logps) if slope is None else slope, entropy_slope


def _logit_gradient(
    exp: Tensor,
    sums: Tensor,
    slope: Tensor,
    entropy_slope: Tensor | None,
    entropies: Tensor,
    chunk: Tensor,
) -> Tensor:
    """Gradient of z_v through p_v alone, in place of the exponentials: -g p_v - e p_v (log p_v +
    H)."""
    # without entropies: -g p_v
    if entropy_slope is None:
        return exp.mul_((-slope / sums).unsqueeze(1))

    # with entropies, a chunk of columns at a time: -p_v (g + e (log p_v + H))
    exp.div_(sums.unsqueeze(1))
    tiny = torch.finfo(exp.dtype).tiny  # p log p is 0 where p is
    constant = (slope + entropy_slope * entropies).unsqueeze(1)
    for part in chunks(exp.shape[1]):
        p = exp[:, part]
        bracket = torch.clamp_min(p, tiny, out=room(chunk, *p.shape)).log_()
        p.mul_(bracket.mul_(entropy_slope.unsqueeze(1)).add_(constant).neg_())
    return exp


class FusedHead(torch.autograd.Function):
    """Loss, log-probabilities and entropies; only the loss is differentiable."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_T: Tensor,
        temperature: float,
        rows: int,
        objective: Objective,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # what the pass yields
        total = hidden_TD.shape[0]
        logps_T, entropy_T = (hidden_TD.new_empty(total) for _ in range(2))
        loss = hidden_TD.new_zeros(())
        inputs = hidden_TD, weight_VD, bias_V

        # gradients that somebody asks for, summed over tiles
        grads = [
            torch.zeros_like(x) if x is not None and ctx.needs_input_grad[i] else None
            for i, x in enumerate(inputs)
        ]

        # every tile uses the same memory
        buffer, chunk = buffers(hidden_TD, weight_VD.shape[0], rows)
        for tile in tiles(total, rows):
            # scores of the tile; afterwards `logits` holds exponentials
            logits = tile_logits(hidden_TD[tile], weight_VD, bias_V, temperature, buffer)
            found = tile_scores(logits, targets_T[tile], chunk)
            logps_T[tile], entropy_T[tile] = found.logps, found.entropies

            # loss of the tile, and its derivative for the logits
            part, slope, entropy_slope = _slopes(objective, tile, found.logps, found.entropies)
            loss += part
            gradient = _logit_gradient(
                logits, found.sums, slope, entropy_slope, entropy_T[tile], chunk
            )

            # z of the sampled token enters its log-probability directly as well
            gradient[torch.arange(len(slope), device=slope.device), targets_T[tile]] += slope
            if temperature != 1.0:
                gradient.div_(temperature)

            # products with head and hidden states
            _accumulate(grads, tile, gradient, hidden_TD[tile], weight_VD)
        ctx.grads = (
            grads  # not saved_tensors: those would keep the head's gradient from becoming .grad
        )
        ctx.mark_non_differentiable(logps_T, entropy_T)
        return loss, logps_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found, ctx.grads = ctx.grads, None
        if found is None:
            raise RuntimeError(
                "the gradient of a fused head was taken already; it cannot be taken twice"
            )

        # the loss was scaled on its way
        if grads[0] != 1.0:
            found = [None if value is None else value.mul_(grads[0]) for value in found]
        return *found, None, None, None, None


def _accumulate(
    grads: list[Tensor | None], tile: slice, gradient: Tensor, hidden: Tensor, weight_VD: Tensor
) -> None:
    """Add what the logits' gradient of a tile means for hidden states, head and bias."""
    grad_hidden, grad_weight, grad_bias = grads
    if grad_hidden is not None:
        torch.mm(gradient, weight_VD, out=grad_hidden[tile])
    if grad_weight is not None:
        grad_weight.addmm_(gradient.T, hidden)
    if grad_bias is not None:
        grad_bias += gradient.sum(0)

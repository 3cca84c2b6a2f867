"""The head that differentiates a loss in its forward: logits are computed once.

A loss that is a sum over tokens needs no more of a tile than the log-probabilities and entropies of
its tokens. So its gradient with respect to hidden states and head is taken while the tile's
probabilities are there. This takes three products with the head instead of four (Liger Kernel,
arXiv 2410.10989, does so for cross-entropy). The price is that the head's whole gradient is read
and written once a tile, so tiles should hold some hundred rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from g2rl.policy.lm_head.tiles import (
    as_matrix,
    chunks,
    new_buffers,
    tile_logits,
    tile_scores,
    tiles,
)

Objective = Callable[[slice, Tensor, Tensor], Tensor]
"""objective(tile, logps, entropies): what a slice of the T tokens adds to the loss, differentiable.

The log-probabilities and entropies are those of the slice."""


def _slopes(
    objective: Objective, tile: slice, logps: Tensor, entropies: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a tile's tokens add to the loss, and its derivatives.

    Returns:
        The loss, its derivatives with respect to the log-probabilities, and those with respect to
        the entropies (None if the loss does not depend on these).
    """
    # differentiate the objective alone: the way to the logits is written out in _logit_gradient
    logps.requires_grad_(True)
    entropies.requires_grad_(True)
    with torch.enable_grad():
        loss = objective(tile, logps, entropies)
    slope, entropy_slope = torch.autograd.grad(loss, (logps, entropies), allow_unused=True)

    if slope is None:
        slope = torch.zeros_like(logps)
    return loss.detach(), slope, entropy_slope


def _logit_gradient(
    exp: Tensor,
    sums: Tensor,
    slope: Tensor,
    entropy_slope: Tensor | None,
    entropies: Tensor,
    chunk_buffer: Tensor,
) -> Tensor:
    """Gradient of the loss for the logits z_v of a tile, as far as they act through p_v.

    With g and e the derivatives for log-probability and entropy it is -g p_v - e p_v (log p_v + H).

    Args:
        exp: exponentials of the logits, (n, V), which the gradient overwrites.
        sums: their sums (n,), so that p = exp / sums.
        slope: g, (n,).
        entropy_slope: e, (n,); None if the loss does not depend on entropies.
        entropies: H, (n,).
        chunk_buffer: working memory for one chunk of columns.
    """
    # -g p_v: most losses do not depend on entropies
    if entropy_slope is None:
        return exp.mul_((-slope / sums).unsqueeze(1))

    # -p_v (e log p_v + (g + e H)), a chunk of columns at a time
    exp.div_(sums.unsqueeze(1))
    smallest = torch.finfo(exp.dtype).tiny  # instead of p = 0, where p log p is 0
    constant = (slope + entropy_slope * entropies).unsqueeze(1)
    for columns in chunks(exp):
        p = exp[:, columns]
        log_p = torch.clamp_min(p, smallest, out=as_matrix(chunk_buffer, *p.shape)).log_()
        p.mul_(log_p.mul_(entropy_slope.unsqueeze(1)).add_(constant).neg_())
    return exp


class FusedHead(torch.autograd.Function):
    """Loss, log-probabilities (T,) and entropies (T,); only the loss is differentiable."""

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
        """See `g2rl.policy.lm_head.head_pass`; `rows` is the number of tokens in a tile."""
        # outputs, and gradients of the inputs that need one
        token_count = hidden_TD.shape[0]
        logps_T, entropy_T = hidden_TD.new_empty(token_count), hidden_TD.new_empty(token_count)
        loss = hidden_TD.new_zeros(())
        grads: list[Tensor | None] = []
        inputs = (hidden_TD, weight_VD, bias_V)
        for value, is_needed in zip(inputs, ctx.needs_input_grad[:3], strict=True):
            grads.append(torch.zeros_like(value) if is_needed and value is not None else None)

        # memory that all tiles use in turn
        buffer, chunk_buffer = new_buffers(hidden_TD, weight_VD.shape[0], rows)
        for tile in tiles(token_count, rows):
            # scores of the tile's tokens, which turn its logits into exponentials
            logits = tile_logits(hidden_TD[tile], weight_VD, bias_V, temperature, buffer)
            scores = tile_scores(logits, targets_T[tile], chunk_buffer)
            logps_T[tile], entropy_T[tile] = scores.logps, scores.entropies

            # what they add to the loss
            tile_loss, slope, entropy_slope = _slopes(
                objective, tile, scores.logps, scores.entropies
            )
            loss += tile_loss

            # its gradient for the logits: through every p_v, and directly through z of the target
            gradient = _logit_gradient(
                logits, scores.sums, slope, entropy_slope, entropy_T[tile], chunk_buffer
            )
            gradient[torch.arange(len(slope), device=slope.device), targets_T[tile]] += slope
            if temperature != 1.0:
                gradient.div_(temperature)

            _accumulate(grads, tile, gradient, hidden_TD[tile], weight_VD)

        # not as saved_tensors, which would keep the head's gradient from becoming .grad uncopied
        ctx.grads = grads
        ctx.mark_non_differentiable(logps_T, entropy_T)
        return loss, logps_T, entropy_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Hand out the gradients of the forward, scaled as the loss was.

        Raises:
            RuntimeError: when called a second time; the gradients have been given away.
        """
        # let go of the gradients, so that autograd may take them as .grad without copying
        input_grads, ctx.grads = ctx.grads, None
        if input_grads is None:
            raise RuntimeError(
                "the gradient of a fused head was taken already; it cannot be taken twice"
            )

        # the caller may have scaled the loss
        loss_grad = grads[0]
        if loss_grad != 1.0:
            for grad in input_grads:
                if grad is not None:
                    grad.mul_(loss_grad)

        # targets, temperature, rows and objective have no gradient
        return *input_grads, None, None, None, None


def _accumulate(
    grads: list[Tensor | None], tile: slice, gradient: Tensor, hidden: Tensor, weight_VD: Tensor
) -> None:
    """Carry the gradient of a tile's logits on to hidden states, head and bias.

    Args:
        grads: gradients of hidden states (T, D), head (V, D) and bias (V,), None where not needed.
        tile: the tokens of the tile.
        gradient: of their logits, (n, V).
        hidden: their hidden states, (n, D).
        weight_VD: the head.
    """
    grad_hidden_TD, grad_weight_VD, grad_bias_V = grads
    if grad_hidden_TD is not None:
        torch.mm(gradient, weight_VD, out=grad_hidden_TD[tile])
    if grad_weight_VD is not None:
        grad_weight_VD.addmm_(gradient.T, hidden)
    if grad_bias_V is not None:
        grad_bias_V += gradient.sum(0)

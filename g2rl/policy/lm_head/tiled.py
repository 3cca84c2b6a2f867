"""The head whose backward recomputes logits.

The forward goes over tiles of tokens, the backward over slices of the vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from g2rl.policy.lm_head.residuals import FeatureRequest, add_residuals, responses_of
from g2rl.policy.lm_head.tiles import (
    cap_slopes,
    new_buffers,
    tile_logits,
    tile_scores,
    tiles,
    wide,
)


def _by_target(
    targets_T: Tensor, vocabulary: int, columns: int
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Which tokens have their target in which slice of the vocabulary.

    Returns:
        An order of the tokens in which those of one slice follow one another, and for each slice
        the first place of its tokens in this order and the place after the last.
    """
    # sorted by target, the tokens of one slice follow one another
    ordered_T, order_T = targets_T.sort()

    # where each slice begins and ends in this order
    edges = torch.arange(0, vocabulary + columns, columns, device=targets_T.device)
    places = torch.searchsorted(ordered_T, edges).tolist()
    return order_T, list(itertools.pairwise(places))


def _probability_part(
    logp: Tensor, grad_logps_T: Tensor, grad_entropy_T: Tensor | None, entropy_T: Tensor
) -> Tensor:
    """Gradient for the logits z_v of a slice, as far as they act through p_v.

    With g and e the gradients of log-probability and entropy it is -g p_v - e p_v (log p_v + H),
    because dH/dz_v = -p_v (log p_v + H).

    Args:
        logp: log p of the slice, (T, columns); overwritten by the gradient.
        grad_logps_T: g.
        grad_entropy_T: e; None if nothing depends on the entropies.
        entropy_T: H.
    """
    slope = grad_logps_T.unsqueeze(1)
    if grad_entropy_T is None:
        return logp.exp_().mul_(-slope)

    # the bracket g + e (log p + H) needs log p, so it comes before log p is overwritten by p
    bracket = (logp + entropy_T.unsqueeze(1)).mul_(grad_entropy_T.unsqueeze(1))
    return logp.exp_().mul_(bracket.add_(slope).neg_())


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without a temporary if the dtypes agree."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _logit_gradients(
    ctx: Any, saved: Sequence[Any], grad_logps_T: Tensor, grad_entropy_T: Tensor | None
) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the vocabulary, each with the gradient of its logits, (T, columns).

    All gradients are written to the same buffer: each is valid until the next one is asked for.

    Args:
        ctx: of `TiledHead`.
        saved: what its forward has saved.
        grad_logps_T, grad_entropy_T: gradients of its outputs.
    """
    hidden_TD, weight_VD, bias_V, targets_T, log_norm_T, entropy_T = saved
    vocabulary = weight_VD.shape[0]
    buffer_size = hidden_TD.shape[0] * min(ctx.columns, vocabulary)
    buffer = hidden_TD.new_empty(buffer_size, dtype=log_norm_T.dtype)
    order_T, ends = _by_target(targets_T, vocabulary, ctx.columns)

    for words, (first, last) in zip(tiles(vocabulary, ctx.columns), ends, strict=True):
        # log-probabilities, by the log Z that the forward has stored
        bias = None if bias_V is None else bias_V[words]
        logp = tile_logits(hidden_TD, weight_VD[words], bias, ctx.temperature, buffer, ctx.cap)
        slopes = None
        if ctx.cap is not None:
            slopes = cap_slopes(logp, ctx.temperature, ctx.cap)
        logp.sub_(log_norm_T.unsqueeze(1))

        # the gradient: through every p_v, and directly through z of the target
        grad_logits = _probability_part(logp, grad_logps_T, grad_entropy_T, entropy_T)
        tokens = order_T[first:last]
        grad_logits[tokens, targets_T[tokens] - words.start] += grad_logps_T[tokens]
        if slopes is not None:
            grad_logits.mul_(slopes)
        if ctx.temperature != 1.0:
            grad_logits.div_(ctx.temperature)
        yield words, grad_logits


class TiledHead(torch.autograd.Function):
    """Log-probabilities (T,), entropies (T,) and residual sums (N, V).

    The first two are differentiable.

    The backward takes slices of the vocabulary instead of tiles of tokens, which it can because the
    forward has stored log Z. So each row of the head's gradient is one product over all tokens and
    is written once; over tiles of tokens the whole (V, D) gradient would be read and written for
    every tile.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_T: Tensor,
        temperature: float,
        rows: int,
        columns: int,
        request: FeatureRequest | None,
        cap: float | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """See `g2rl.policy.lm_head.head_pass`.

        `rows` is the number of tokens in a tile, `columns` the number of words in a slice. The
        residual sums are None without a request.
        """
        # outputs, and log Z for the backward
        dtype, token_count = wide(hidden_TD.dtype), hidden_TD.shape[0]
        logps_T = hidden_TD.new_empty(token_count, dtype=dtype)
        entropy_T, log_norm_T = torch.empty_like(logps_T), torch.empty_like(logps_T)
        tile_slices = list(tiles(token_count, rows))
        residual_NV, responses = None, []
        if request is not None:
            responses = responses_of(request, tile_slices)
            residual_NV = hidden_TD.new_zeros(request.count, weight_VD.shape[0], dtype=dtype)

        buffer, chunk_buffer = new_buffers(hidden_TD, weight_VD.shape[0], rows)
        for number, tile in enumerate(tile_slices):
            # scores of the tile's tokens, which turn its logits into exponentials
            logits = tile_logits(hidden_TD[tile], weight_VD, bias_V, temperature, buffer, cap)
            slopes = None
            if cap is not None and request is not None:
                slopes = cap_slopes(logits, temperature, cap)
            scores = tile_scores(logits, targets_T[tile], chunk_buffer)
            logps_T[tile], entropy_T[tile] = scores.logps, scores.entropies
            log_norm_T[tile] = scores.log_norms

            if request is not None and residual_NV is not None:
                add_residuals(
                    residual_NV,
                    request,
                    tile,
                    responses[number],
                    logits,
                    scores.sums,
                    temperature,
                    slopes,
                )

        # logits are not stored: the backward recomputes them
        ctx.save_for_backward(hidden_TD, weight_VD, bias_V, targets_T, log_norm_T, entropy_T)
        ctx.temperature, ctx.columns, ctx.cap = temperature, columns, cap

        # the backward is told None of an output that nothing depends on, instead of zeros
        ctx.set_materialize_grads(False)
        if residual_NV is not None:
            ctx.mark_non_differentiable(residual_NV)
        return logps_T, entropy_T, residual_NV

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of hidden states (T, D), head (V, D) and bias (V,), where needed."""
        saved = ctx.saved_tensors
        hidden_TD, weight_VD, bias_V, _, log_norm_T, _ = saved
        grad_logps_T, grad_entropy_T, _ = grads

        # without a gradient that flows back, none of the nine inputs has one
        if grad_logps_T is None and grad_entropy_T is None:
            return (None,) * 9
        if grad_logps_T is None:
            grad_logps_T = torch.zeros_like(log_norm_T)

        # gradients of the inputs that need one; that of the hidden states is summed over slices
        grad_hidden_TD = grad_weight_VD = grad_bias_V = None
        if ctx.needs_input_grad[0]:
            grad_hidden_TD = torch.zeros_like(hidden_TD, dtype=log_norm_T.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight_VD = torch.empty_like(weight_VD)
        if ctx.needs_input_grad[2]:
            grad_bias_V = torch.empty_like(bias_V)

        for words, grad_logits in _logit_gradients(ctx, saved, grad_logps_T, grad_entropy_T):
            narrow_grad = grad_logits.to(hidden_TD.dtype)
            if grad_hidden_TD is not None:
                _add_product(grad_hidden_TD, narrow_grad, weight_VD[words])
            if grad_weight_VD is not None:
                grad_weight_VD[words] = narrow_grad.T @ hidden_TD
            if grad_bias_V is not None:
                grad_bias_V[words] = grad_logits.sum(0)

        if grad_hidden_TD is not None:
            grad_hidden_TD = grad_hidden_TD.to(hidden_TD.dtype)
        return grad_hidden_TD, grad_weight_VD, grad_bias_V, *(None,) * 6

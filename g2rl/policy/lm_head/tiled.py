"""The head whose backward recomputes logits: forward over tokens, backward over the vocabulary."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from g2rl.policy.lm_head.residuals import FeatureRequest, add_residuals
from g2rl.policy.lm_head.tiles import buffers, tile_logits, tile_scores, tiles, wide


def _by_target(
    targets_T: Tensor, vocabulary: int, columns: int
) -> tuple[Tensor, list[tuple[int, int]]]:
    """Tokens ordered by target, and which of them have theirs in each slice of the vocabulary."""
    # tokens whose targets lie in one slice follow one another in this order
    ordered_T, order_T = targets_T.sort()
    edges = torch.arange(0, vocabulary + columns, columns, device=targets_T.device)
    places = torch.searchsorted(ordered_T, edges).tolist()
    return order_T, list(itertools.pairwise(places))


def _probability_part(
    logp: Tensor, grad_logps_T: Tensor, grad_entropy_T: Tensor | None, entropy_T: Tensor
) -> Tensor:
    """Gradient of z_v through p_v alone, in place of log p: -g_t p_v - e_t p_v (log p_v + H_t)."""
    slope = grad_logps_T.unsqueeze(1)
    if grad_entropy_T is None:
        return logp.exp_().mul_(-slope)
    # dH/dz_v = -p_v (log p_v + H)
    bracket = (logp + entropy_T.unsqueeze(1)).mul_(grad_entropy_T.unsqueeze(1))
    return logp.exp_().mul_(bracket.add_(slope).neg_())


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, without a temporary where the dtypes agree."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


class TiledHead(torch.autograd.Function):
    """Forward over tiles of tokens, backward over slices of the vocabulary.

    With log Z known, a slice needs no other: each row of the weight's gradient is one product over
    all tokens, written once. Over tiles of tokens the whole (V, D) gradient would be read and
    written a tile.
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
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        # what the pass yields
        dtype, total = wide(hidden_TD.dtype), hidden_TD.shape[0]
        logps_T, entropy_T, log_norm_T = (hidden_TD.new_empty(total, dtype=dtype) for _ in range(3))
        residual_NV = None
        if request is not None:
            residual_NV = hidden_TD.new_zeros(request.count, weight_VD.shape[0], dtype=dtype)

        # every tile uses the same memory
        buffer, chunk = buffers(hidden_TD, weight_VD.shape[0], rows)
        for tile in tiles(total, rows):
            # scores of the tile; afterwards `logits` holds exponentials
            logits = tile_logits(hidden_TD[tile], weight_VD, bias_V, temperature, buffer)
            found = tile_scores(logits, targets_T[tile], chunk)
            logps_T[tile], entropy_T[tile] = found.logps, found.entropies
            log_norm_T[tile] = found.log_norms

            # the features' share
            if request is not None and residual_NV is not None:
                add_residuals(residual_NV, request, tile, logits, temperature)

        # logits are not kept: the backward recomputes them
        ctx.save_for_backward(hidden_TD, weight_VD, bias_V, targets_T, log_norm_T, entropy_T)
        ctx.temperature, ctx.columns = temperature, columns
        ctx.set_materialize_grads(False)
        if residual_NV is not None:
            ctx.mark_non_differentiable(residual_NV)
        return logps_T, entropy_T, residual_NV

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_logps_T, grad_entropy_T, _ = grads
        hidden_TD, weight_VD, bias_V, targets_T, log_norm_T, entropy_T = ctx.saved_tensors

        # nothing flows back
        if grad_logps_T is None and grad_entropy_T is None:
            return (None,) * 8
        if grad_logps_T is None:
            grad_logps_T = torch.zeros_like(log_norm_T)

        # room for what somebody asks for
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden_TD, dtype=log_norm_T.dtype) if needs_hidden else None
        grad_weight = torch.empty_like(weight_VD) if needs_weight else None
        grad_bias = torch.empty_like(bias_V) if needs_bias else None
        size = hidden_TD.shape[0] * min(ctx.columns, weight_VD.shape[0])
        buffer = hidden_TD.new_empty(size, dtype=log_norm_T.dtype)

        # slice by slice of the vocabulary
        order_T, ends = _by_target(targets_T, weight_VD.shape[0], ctx.columns)
        for tile, (first, last) in zip(tiles(weight_VD.shape[0], ctx.columns), ends, strict=True):
            part_VD = weight_VD[tile]
            part_bias = None if bias_V is None else bias_V[tile]

            # log-probabilities of the slice, from the normaliser that the forward has kept
            logp = tile_logits(hidden_TD, part_VD, part_bias, ctx.temperature, buffer)
            logp.sub_(log_norm_T.unsqueeze(1))

            # gradient of the slice's logits, through the probabilities and the sampled tokens
            grad_logits = _probability_part(logp, grad_logps_T, grad_entropy_T, entropy_T)
            rows = order_T[first:last]
            grad_logits[rows, targets_T[rows] - tile.start] += grad_logps_T[rows]
            if ctx.temperature != 1.0:
                grad_logits.div_(ctx.temperature)

            # products with head and hidden states
            narrow = grad_logits.to(hidden_TD.dtype)
            if grad_hidden is not None:
                _add_product(grad_hidden, narrow, part_VD)
            if grad_weight is not None:
                grad_weight[tile] = narrow.T @ hidden_TD
            if grad_bias is not None:
                grad_bias[tile] = grad_logits.sum(0)
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(hidden_TD.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None, None

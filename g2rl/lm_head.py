"""The tiled LM head: log-probabilities, entropies and gradient features without a (T, V) matrix.

With hidden states h_t, head W and temperature tau, p_t = softmax(W h_t / tau). One pass over tiles of
a few rows yields, for every response token t with token y_t,

    log p_t(y_t)                            its log-probability at the sampling temperature
    H_t = -sum_v p_t(v) log p_t(v)          its entropy, in nats
    c   = sum_t a_t (e(y_t) - p_t) / sum_t a_t      residual sum of each response, (V,)

and the gradient feature of G2RL (arXiv 2512.15687, Eq. 5-8 and 14) follows from c by one product a
response, Phi = W^T c, because it is linear in the token residuals: this is the identity that makes it
free. The first two are differentiable; the backward recomputes logits from h and W, so that neither
logits nor probabilities of all tokens ever exist together. Accumulation is in float32 (float64 when the
inputs are).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DEFAULT_TILE_BYTES = 64 << 20
MAX_TILE_ROWS = 1024  # a tile of a tiny vocabulary would otherwise span hundreds of responses
MIN_SLICE = 128
CHUNK = 4096  # columns whose exponentials are taken at once
_BUFFERS = 2  # of a slice in the backward: log-probabilities, and the entropy's part of the gradient


@dataclass(slots=True)
class HeadOutput:
    """What one pass of the head yields for T response tokens of N responses."""

    logps_T: Tensor
    """log p_t(y_t) at the sampling temperature."""
    entropy_T: Tensor
    """Token entropy at the sampling temperature, nats."""
    features_ND: Tensor | None = None
    """Gradient features Phi, float32; None unless asked for. A response without tokens has 0."""


@dataclass(slots=True, frozen=True)
class FeatureRequest:
    """Which token belongs to which response, and how tokens are weighed."""

    segments_T: Tensor
    """Response index of each token, non-decreasing int64."""
    count: int
    """Number of responses N; a response may have no token."""
    temperature: float
    """Temperature of p_t in the residuals (normally the sampling temperature)."""
    weights_T: Tensor | None = None
    """alpha_t; None means 1 on every token."""


def tile_rows(vocabulary: int, tile_bytes: int, dtype: torch.dtype) -> int:
    """Rows of a tile whose logits and one chunk of exponentials fit `tile_bytes`, 1 to MAX_TILE_ROWS."""
    width = 8 if dtype == torch.float64 else 4
    return max(1, min(tile_bytes // ((vocabulary + min(vocabulary, CHUNK)) * width), MAX_TILE_ROWS))


def tile_columns(tokens: int, tile_bytes: int, dtype: torch.dtype) -> int:
    """Words of a slice of the vocabulary whose buffers fit `tile_bytes`, at least MIN_SLICE."""
    width = 8 if dtype == torch.float64 else 4
    return max(MIN_SLICE, tile_bytes // (max(tokens, 1) * width * _BUFFERS))


def _tiles(total: int, rows: int) -> Iterator[slice]:
    for first in range(0, total, rows):
        yield slice(first, min(first + rows, total))


def _room(buffer: Tensor, rows: int, columns: int) -> Tensor:
    """A matrix in the front of a flat buffer, which tiles take in turns: fresh memory costs page faults."""
    return buffer[: rows * columns].view(rows, columns)


def _logits(
    hidden: Tensor, weight_VD: Tensor, bias_V: Tensor | None, temperature: float, buffer: Tensor
) -> Tensor:
    """Logits of one tile divided by the temperature, in the flat `buffer` (float32 or wider)."""
    logits = _room(buffer, hidden.shape[0], weight_VD.shape[0])
    if hidden.dtype == logits.dtype:
        torch.mm(hidden, weight_VD.T, out=logits)
    else:
        logits.copy_(hidden @ weight_VD.T)
    if bias_V is not None:
        logits.add_(bias_V)
    return logits.div_(temperature) if temperature != 1.0 else logits


def _exponentials(shifted: Tensor, chunk: Tensor) -> tuple[Tensor, Tensor]:
    """Turn z - max z into exponentials in place; returns the sums of exp(z) and exp(z) z of each row.

    A chunk of columns at a time: no second tile is needed, and a chunk stays in the cache.
    """
    norm, weighted = (shifted.new_zeros(shifted.shape[0]) for _ in range(2))
    for part in _tiles(shifted.shape[1], CHUNK):
        values = shifted[:, part]
        exp = torch.exp(values, out=_room(chunk, *values.shape))
        norm += exp.sum(-1)
        weighted += torch.einsum("tv,tv->t", exp, values)
        values.copy_(exp)
    return norm, weighted


def _add_residuals(
    residual_NV: Tensor, request: FeatureRequest, tile: slice, exp: Tensor, temperature: float
) -> None:
    """Subtract sum_t a_t p_t of a tile from the residual sums; `exp` is at `temperature`, and overwritten."""
    if request.temperature != temperature:
        exp.pow_(temperature / request.temperature)
    scale = exp.sum(-1).reciprocal_()
    if request.weights_T is not None:
        scale = scale * request.weights_T[tile]
    segments = request.segments_T[tile]
    first = int(segments[0])
    span = int(segments[-1]) - first + 1
    # rows of one tile touch few responses: a (span, rows) selection times the tile is one thin product
    select = exp.new_zeros(span, exp.shape[0])
    select[segments - first, torch.arange(exp.shape[0], device=exp.device)] = scale
    residual_NV[first : first + span].addmm_(select, exp, alpha=-1.0)


def _by_target(targets_T: Tensor, vocabulary: int, columns: int) -> tuple[Tensor, list[tuple[int, int]]]:
    """Tokens ordered by target, and which of them have theirs in each slice of the vocabulary."""
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


class _TiledHead(torch.autograd.Function):
    """Forward over tiles of tokens, backward over slices of the vocabulary.

    With log Z known, a slice needs no other: each row of the weight's gradient is one product over all
    tokens, written once. Over tiles of tokens the whole (V, D) gradient would be read and written a tile.
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
        wide = torch.promote_types(hidden_TD.dtype, torch.float32)
        total = hidden_TD.shape[0]
        logps_T, entropy_T = (hidden_TD.new_empty(total, dtype=wide) for _ in range(2))
        log_norm_T = hidden_TD.new_empty(total, dtype=wide)
        residual_NV = None
        if request is not None:
            residual_NV = hidden_TD.new_zeros(request.count, weight_VD.shape[0], dtype=wide)
        most = min(rows, total)
        buffer = hidden_TD.new_empty(most * weight_VD.shape[0], dtype=wide)
        chunk = hidden_TD.new_empty(most * min(CHUNK, weight_VD.shape[0]), dtype=wide)
        for tile in _tiles(total, rows):
            shifted = _logits(hidden_TD[tile], weight_VD, bias_V, temperature, buffer)
            peak = shifted.amax(-1, keepdim=True)
            shifted.sub_(peak)
            chosen = shifted.gather(1, targets_T[tile].unsqueeze(1)).squeeze(1)
            norm, weighted = _exponentials(shifted, chunk)
            log_norm = norm.log()
            logps_T[tile] = chosen - log_norm
            entropy_T[tile] = log_norm - weighted / norm  # H = log Z - sum_v p_v (z_v - max z)
            log_norm_T[tile] = log_norm + peak.squeeze(1)
            if request is not None and residual_NV is not None:
                _add_residuals(residual_NV, request, tile, shifted, temperature)
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
        if grad_logps_T is None and grad_entropy_T is None:
            return (None,) * 8
        if grad_logps_T is None:
            grad_logps_T = torch.zeros_like(log_norm_T)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.zeros_like(hidden_TD, dtype=log_norm_T.dtype) if needs_hidden else None
        grad_weight = torch.empty_like(weight_VD) if needs_weight else None
        grad_bias = torch.empty_like(bias_V) if needs_bias else None
        size = hidden_TD.shape[0] * min(ctx.columns, weight_VD.shape[0])
        buffer = hidden_TD.new_empty(size, dtype=log_norm_T.dtype)
        order_T, ends = _by_target(targets_T, weight_VD.shape[0], ctx.columns)
        for tile, (first, last) in zip(_tiles(weight_VD.shape[0], ctx.columns), ends, strict=True):
            part_VD = weight_VD[tile]
            part_bias = None if bias_V is None else bias_V[tile]
            logp = _logits(hidden_TD, part_VD, part_bias, ctx.temperature, buffer)
            logp.sub_(log_norm_T.unsqueeze(1))
            grad_logits = _probability_part(logp, grad_logps_T, grad_entropy_T, entropy_T)
            rows = order_T[first:last]
            grad_logits[rows, targets_T[rows] - tile.start] += grad_logps_T[rows]
            if ctx.temperature != 1.0:
                grad_logits.div_(ctx.temperature)
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


def head_pass(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    *,
    temperature: float = 1.0,
    bias_V: Tensor | None = None,
    features: FeatureRequest | None = None,
    tile_bytes: int = DEFAULT_TILE_BYTES,
) -> HeadOutput:
    """Log-probability and entropy of each response token, and gradient features when asked for.

    Args:
        hidden_TD: last hidden states at the positions that predict the response tokens.
        weight_VD: LM head; bias_V its bias, if it has one.
        targets_T: response tokens y_t (int64).
        temperature: sampling temperature tau > 0; log-probabilities are those of softmax(z / tau).
        features: which response each token belongs to; None skips the features and their cost.
        tile_bytes: memory for one tile of logits, and for the residual sums of the features beside it.

    Returns:
        `HeadOutput`; features are detached, the rest is differentiable in hidden, weight and bias.

    Raises:
        ValueError: for a temperature that is not positive.
    """
    if temperature <= 0 or (features is not None and features.temperature <= 0):
        raise ValueError("the head needs a temperature > 0 (greedy decoding has no distribution)")
    sums = 0  # of residuals share the memory of a tile, as far as half of it goes
    if features is not None:
        wide = torch.promote_types(hidden_TD.dtype, torch.float32)
        sums = min(features.count * weight_VD.shape[0] * wide.itemsize, tile_bytes // 2)
    rows = tile_rows(weight_VD.shape[0], tile_bytes - sums, hidden_TD.dtype)
    columns = tile_columns(hidden_TD.shape[0], tile_bytes, hidden_TD.dtype)
    logps_T, entropy_T, residual_NV = _TiledHead.apply(
        hidden_TD, weight_VD, bias_V, targets_T, temperature, rows, columns, features
    )
    if features is None:
        return HeadOutput(logps_T, entropy_T)
    with torch.no_grad():
        return HeadOutput(logps_T, entropy_T, _features(residual_NV, weight_VD, targets_T, features))


def _features(residual_NV: Tensor, weight_VD: Tensor, targets_T: Tensor, request: FeatureRequest) -> Tensor:
    """Add the sampled tokens to the residual sums, normalise by sum_t a_t and multiply by W once."""
    weights_T = request.weights_T
    if weights_T is None:
        weights_T = torch.ones_like(targets_T, dtype=residual_NV.dtype)
    weights_T = weights_T.to(residual_NV.dtype)
    residual_NV.index_put_((request.segments_T, targets_T), weights_T, accumulate=True)
    total_N = residual_NV.new_zeros(request.count).index_add_(0, request.segments_T, weights_T)
    residual_NV /= total_N.clamp_min(torch.finfo(residual_NV.dtype).tiny).unsqueeze(1)
    if weight_VD.dtype == residual_NV.dtype:
        return residual_NV @ weight_VD
    features_ND = residual_NV.new_zeros(request.count, weight_VD.shape[1])
    for part in _tiles(weight_VD.shape[0], 16_384):  # widen the head a slice at a time
        features_ND += residual_NV[:, part] @ weight_VD[part].to(residual_NV.dtype)
    return features_ND

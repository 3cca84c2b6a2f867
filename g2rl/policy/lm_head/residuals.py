"""Gradient features from residual sums: c of each response tile by tile, then Phi = W^T c at
once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from g2rl.policy.lm_head.tiles import tiles


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


def add_residuals(
    residual_NV: Tensor, request: FeatureRequest, tile: slice, exp: Tensor, temperature: float
) -> None:
    """Subtract sum_t a_t p_t of a tile from the residual sums; `exp` is at `temperature`, and
    overwritten."""
    # exp(z / tau) to exp(z / tau')
    if request.temperature != temperature:
        exp.pow_(temperature / request.temperature)
    scale = exp.sum(-1).reciprocal_()
    if request.weights_T is not None:
        scale = scale * request.weights_T[tile]

    # responses that have a token in this tile
    segments = request.segments_T[tile]
    first = int(segments[0])
    span = int(segments[-1]) - first + 1
    # rows of one tile touch few responses: a (span, rows) selection times the tile is one thin
    # product
    select = exp.new_zeros(span, exp.shape[0])
    select[segments - first, torch.arange(exp.shape[0], device=exp.device)] = scale
    residual_NV[first : first + span].addmm_(select, exp, alpha=-1.0)


def to_features(
    residual_NV: Tensor, weight_VD: Tensor, targets_T: Tensor, request: FeatureRequest
) -> Tensor:
    """Add the sampled tokens to the residual sums, normalise by sum_t a_t and multiply by W
    once."""
    # weights of the tokens, 1 by default
    weights_T = request.weights_T
    if weights_T is None:
        weights_T = torch.ones_like(targets_T, dtype=residual_NV.dtype)
    weights_T = weights_T.to(residual_NV.dtype)

    # + a_t e(y_t), then divide by sum_t a_t
    residual_NV.index_put_((request.segments_T, targets_T), weights_T, accumulate=True)
    total_N = residual_NV.new_zeros(request.count).index_add_(0, request.segments_T, weights_T)
    residual_NV /= total_N.clamp_min(torch.finfo(residual_NV.dtype).tiny).unsqueeze(1)

    # Phi = W^T c
    if weight_VD.dtype == residual_NV.dtype:
        return residual_NV @ weight_VD
    features_ND = residual_NV.new_zeros(request.count, weight_VD.shape[1])
    for part in tiles(weight_VD.shape[0], 16_384):  # widen the head a slice at a time
        features_ND += residual_NV[:, part] @ weight_VD[part].to(residual_NV.dtype)
    return features_ND

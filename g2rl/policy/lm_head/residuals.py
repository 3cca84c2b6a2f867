"""Gradient features of responses: residual sums c tile by tile, then Phi = W^T c at once.

G2RL, arXiv 2512.15687, Eq. 5-8 and 14.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from g2rl.policy.lm_head.tiles import WIDENED_WORDS, tiles

BLOCK_WORDS = 8192  # words of a block that one thread multiplies


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


def _blocks(matrix: Tensor) -> tuple[Tensor | None, slice]:
    """Cut the columns of a matrix into blocks that can be multiplied side by side.

    One product with few rows is hardly faster on two threads of a CPU than on one, a batch of such
    products is nearly twice as fast. The blocks do not depend on the number of threads, so that
    sums over them do not either.

    Args:
        matrix: (n, V).

    Returns:
        A view of the blocks, (count, n, BLOCK_WORDS), and the columns that follow the last one. On
        other devices, and where there are fewer than two blocks, None and all columns.
    """
    words = matrix.shape[1]
    count = words // BLOCK_WORDS
    if matrix.device.type != "cpu" or count < 2:
        return None, slice(0, words)

    # words of the last, incomplete block are left to the caller
    end = count * BLOCK_WORDS
    blocks = matrix[:, :end].unflatten(1, (count, BLOCK_WORDS)).transpose(0, 1)
    return blocks, slice(end, words)


def _subtract_sums(sums: Tensor, selection: Tensor, exp: Tensor) -> None:
    """sums -= selection @ exp, in place.

    Args:
        sums: (span, V).
        selection: (span, n) with few rows.
        exp: (n, V).
    """
    # both are cut alike
    exp_blocks, rest = _blocks(exp)
    sums_blocks, _ = _blocks(sums)
    if exp_blocks is not None and sums_blocks is not None:
        every_selection = selection.expand(exp_blocks.shape[0], -1, -1)
        sums_blocks.baddbmm_(every_selection, exp_blocks, alpha=-1.0)
    sums[:, rest].addmm_(selection, exp[:, rest], alpha=-1.0)


def _times_head(residual_NV: Tensor, weight_VD: Tensor) -> Tensor:
    """residual_NV @ weight_VD, two matrices of one dtype, for few responses N."""
    # the words that are in no block
    residual_blocks, rest = _blocks(residual_NV)
    product_ND = residual_NV[:, rest] @ weight_VD[rest]

    # the blocks, whose products are summed
    if residual_blocks is not None:
        count = residual_blocks.shape[0]
        weight_blocks = weight_VD[: rest.start].unflatten(0, (count, BLOCK_WORDS))
        product_ND += torch.bmm(residual_blocks, weight_blocks).sum(0)
    return product_ND


def responses_of(request: FeatureRequest, tile_slices: Sequence[slice]) -> list[slice]:
    """The responses whose tokens each tile holds; they follow one another.

    It waits for the device once, and not for every tile.
    """
    segments_T = request.segments_T.cpu()
    found: list[slice] = []
    for tile in tile_slices:
        first, last = int(segments_T[tile.start]), int(segments_T[tile.stop - 1])
        found.append(slice(first, last + 1))
    return found


def add_residuals(
    residual_NV: Tensor,
    request: FeatureRequest,
    tile: slice,
    responses: slice,
    exp: Tensor,
    sums: Tensor,
    temperature: float,
    slopes: Tensor | None = None,
) -> None:
    """Subtract sum_t a_t p_t of a tile's tokens from the residual sums of their responses.

    Args:
        residual_NV: the residual sums, changed in place.
        request: which response each token belongs to, and its weight a_t.
        tile: the tokens of the tile.
        responses: those whose tokens are in the tile, see `responses_of`.
        exp: exponentials of their logits at `temperature`, (n, V); overwritten.
        sums: sums of these exponentials over the words, (n,).
        temperature: of the exponentials.
        slopes: derivative of soft-capped logits for the head's outputs, (n, V); None without a cap.
    """
    # exp(z / tau) ** (tau / tau') = exp(z / tau')
    if request.temperature != temperature:
        exp.pow_(temperature / request.temperature)
        sums = exp.sum(-1)

    # a_t / Z_t, which turns exponentials into weighted probabilities
    scale = sums.reciprocal()
    if request.weights_T is not None:
        scale = scale * request.weights_T[tile]
    if slopes is not None:
        exp.mul_(slopes)

    # the tile's tokens belong to few responses, so that one thin product sums over the tokens of
    # each: a (span, n) selection times the (n, V) tile
    places = request.segments_T[tile] - responses.start
    selection = exp.new_zeros(responses.stop - responses.start, exp.shape[0])
    selection[places, torch.arange(exp.shape[0], device=exp.device)] = scale
    _subtract_sums(residual_NV[responses], selection, exp)


def to_features(
    residual_NV: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    request: FeatureRequest,
    slopes_T: Tensor | None = None,
) -> Tensor:
    """Gradient features Phi (N, D) of the responses.

    Args:
        residual_NV: -sum_t a_t p_t of each response; overwritten by c.
        weight_VD: the head.
        targets_T: the sampled tokens y_t.
        request: which response each token belongs to, and its weight a_t.
        slopes_T: derivative of each target's soft-capped logit for the head's output; None without
            a cap.
    """
    # a_t, 1 unless the request says otherwise
    weights_T = request.weights_T
    if weights_T is None:
        weights_T = torch.ones_like(targets_T, dtype=residual_NV.dtype)
    weights_T = weights_T.to(residual_NV.dtype)

    # c = sum_t a_t (e(y_t) - p_t) / sum_t a_t; under a cap each difference times its slope
    target_weights_T = weights_T
    if slopes_T is not None:
        target_weights_T = weights_T * slopes_T.to(weights_T.dtype)
    residual_NV.index_put_((request.segments_T, targets_T), target_weights_T, accumulate=True)
    total_weight_N = residual_NV.new_zeros(request.count)
    total_weight_N.index_add_(0, request.segments_T, weights_T)
    smallest = torch.finfo(residual_NV.dtype).tiny  # a response without tokens has c = 0
    residual_NV /= total_weight_N.clamp_min(smallest).unsqueeze(1)

    # Phi = W^T c; a narrower head is widened a slice at a time, because a whole copy costs memory
    if weight_VD.dtype == residual_NV.dtype:
        return _times_head(residual_NV, weight_VD)
    features_ND = residual_NV.new_zeros(request.count, weight_VD.shape[1])
    for words in tiles(weight_VD.shape[0], WIDENED_WORDS):
        features_ND += residual_NV[:, words] @ weight_VD[words].to(residual_NV.dtype)
    return features_ND

"""Small tensor functions shared by signals, losses and analysis: pure torch, no configuration."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_rows(vectors: Tensor, eps: float = 1e-12) -> tuple[Tensor, Tensor]:
    """Divide each row by its Euclidean norm; rows of (almost) zero norm become exactly zero.

    Rows are first divided by their largest magnitude, so neither huge nor tiny vectors overflow.

    Args:
        vectors: (..., D).
        eps: norms at or below this count as zero.

    Returns:
        Unit rows (..., D) in float32 or wider, and a boolean (...) that marks zero rows.
    """
    # the largest magnitude first, so that squares neither overflow nor vanish
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    largest = wide.abs().amax(dim=-1, keepdim=True)
    scaled = wide / largest.clamp_min(torch.finfo(wide.dtype).tiny)

    # then the norm, which is at least 1 for a row that is not zero
    norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    zero = largest * norm <= eps
    return torch.where(zero, torch.zeros_like(wide), scaled / norm.clamp_min(1.0)), zero.squeeze(-1)


def cosine_matrix(features_PGD: Tensor) -> tuple[Tensor, Tensor]:
    """Pairwise cosines inside each group: S_ij = <v_i, v_j> of unit rows, clamped to [-1, 1].

    The diagonal is 1, also for a zero row, whose cosine with every other row is 0.

    Returns:
        S (P, G, G) and the boolean mask (P, G) of zero rows.
    """
    # rounding may leave [-1, 1]
    unit_PGD, zero_PG = unit_rows(features_PGD)
    cosine_PGG = (unit_PGD @ unit_PGD.transpose(-1, -2)).clamp(-1.0, 1.0)
    eye = torch.eye(cosine_PGG.shape[-1], dtype=torch.bool, device=cosine_PGG.device)
    return cosine_PGG.masked_fill(eye, 1.0), zero_PG


def minmax(values_PG: Tensor, floor: float = 0.0) -> Tensor:
    """Min-max inside each group to [0, 1].

    A group whose spread is at most `floor` (a constant one, one response included) maps to 0, so
    that rounding noise is not stretched over the whole interval.
    """
    # a flat group has no spread to divide by
    low = values_PG.amin(dim=-1, keepdim=True)
    spread = values_PG.amax(dim=-1, keepdim=True) - low
    flat = spread <= floor
    return ((values_PG - low) / spread.masked_fill(flat, 1.0)).masked_fill(flat, 0.0)


def midrank(values_PG: Tensor) -> Tensor:
    """Ranks inside each group scaled to [0, 1], ties sharing their mean rank; a constant group maps
    to 1/2.

    A group of one maps to 0, as in `minmax`.
    """
    group = values_PG.shape[-1]
    if group == 1:
        return torch.zeros_like(values_PG)

    # each value's rank: those below it, and half of its equals
    below = (values_PG.unsqueeze(-1) > values_PG.unsqueeze(-2)).sum(-1)
    equal = (values_PG.unsqueeze(-1) == values_PG.unsqueeze(-2)).sum(-1) - 1
    return ((below + 0.5 * equal) / (group - 1)).to(
        torch.promote_types(values_PG.dtype, torch.float32)
    )


def segment_sum(values_T: Tensor, segments_T: Tensor, count: int) -> Tensor:
    """Sum of the values of each segment, (count,); empty segments are 0."""
    return values_T.new_zeros(count).index_add(0, segments_T, values_T)


def segment_mean(values_T: Tensor, segments_T: Tensor, count: int) -> Tensor:
    """Mean of the values of each segment, (count,); empty segments are 0."""
    sizes = segment_sum(torch.ones_like(values_T), segments_T, count)
    return segment_sum(values_T, segments_T, count) / sizes.clamp_min(1.0)

"""Small tensor functions shared by signals, losses and analyses."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def unit_rows(vectors: Tensor, eps: float = 1e-12) -> tuple[Tensor, Tensor]:
    """Divide each row by its Euclidean norm; rows of (almost) zero norm become exactly zero.

    Args:
        vectors: (..., D), of any magnitude.
        eps: norms at or below this count as zero.

    Returns:
        Unit rows (..., D) in float32 or wider, and a boolean (...) that marks zero rows.
    """
    # divide by the largest magnitude first, so that squares neither overflow nor vanish
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    largest = wide.abs().amax(dim=-1, keepdim=True)
    scaled = wide / largest.clamp_min(torch.finfo(wide.dtype).tiny)

    # the norm of what is left is at least 1, except for a zero row
    norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    is_zero = largest * norm <= eps
    unit = torch.where(is_zero, torch.zeros_like(wide), scaled / norm.clamp_min(1.0))
    return unit, is_zero.squeeze(-1)


def unit_rows_float64(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Divide each row by its Euclidean norm in float64; only a row of zeros has no direction.

    In float64 the squares of float32 numbers neither overflow nor vanish.

    Args:
        vectors: (..., D).

    Returns:
        Unit rows (..., D), where a row of zeros stays zero, and the norms (...); both float64.
    """
    # divide by 1 instead of a norm of 0
    wide = vectors.double()
    norm = wide.norm(dim=-1, keepdim=True)
    unit = wide / torch.where(norm > 0, norm, 1.0)
    return unit, norm.squeeze(-1)


def cosine_matrix(features_PGD: Tensor) -> tuple[Tensor, Tensor]:
    """Pairwise cosines inside each group, S of `unit_cosines` for vectors of any length.

    Returns:
        S (P, G, G) and the boolean mask (P, G) of zero rows.
    """
    unit_PGD, zero_PG = unit_rows(features_PGD)
    return unit_cosines(unit_PGD), zero_PG


def unit_cosines(unit_PGD: Tensor) -> Tensor:
    """S_ij = <v_i, v_j> of the unit rows of each group, (P, G, G), clamped to [-1, 1].

    The diagonal is 1, also for a zero row, whose cosine with every other row is 0.
    """
    cosine_PGG = unit_PGD @ unit_PGD.transpose(-1, -2)
    own_GG = torch.eye(cosine_PGG.shape[-1], dtype=torch.bool, device=cosine_PGG.device)
    # rounding may leave [-1, 1]
    return cosine_PGG.clamp(-1.0, 1.0).masked_fill(own_GG, 1.0)


def minmax(values_PG: Tensor, floor: float = 0.0) -> Tensor:
    """Scale the values of each group linearly to [0, 1]: smallest to 0, largest to 1.

    Args:
        values_PG: values of each group in the last axis.
        floor: a group whose spread (largest - smallest) is at most this maps to 0, so that rounding
            noise is not stretched over the whole interval. A group of one always maps to 0.

    Returns:
        (P, G).
    """
    low_P1 = values_PG.amin(dim=-1, keepdim=True)
    spread_P1 = values_PG.amax(dim=-1, keepdim=True) - low_P1

    # a flat group is divided by 1, and overwritten
    is_flat_P1 = spread_P1 <= floor
    scaled_PG = (values_PG - low_P1) / spread_P1.masked_fill(is_flat_P1, 1.0)
    return scaled_PG.masked_fill(is_flat_P1, 0.0)


def midrank(values_PG: Tensor) -> Tensor:
    """Ranks inside each group, scaled to [0, 1]; ties share their mean rank.

    A constant group maps to 1/2, a group of one to 0 as in `minmax`.

    Returns:
        (P, G) in float32 or wider.
    """
    group_size = values_PG.shape[-1]
    if group_size == 1:
        return torch.zeros_like(values_PG)

    # a rank is the number of smaller values plus half the number of other equal ones
    below_PG = (values_PG.unsqueeze(-1) > values_PG.unsqueeze(-2)).sum(-1)
    equal_PG = (values_PG.unsqueeze(-1) == values_PG.unsqueeze(-2)).sum(-1) - 1
    rank_PG = (below_PG + 0.5 * equal_PG) / (group_size - 1)
    return rank_PG.to(torch.promote_types(values_PG.dtype, torch.float32))


EXP_LIMIT = 10.0
"""Where `bounded_exp` becomes a straight line: at e^10, about 22,000."""


def bounded_exp(values: Tensor) -> Tensor:
    """exp(x) up to x = `EXP_LIMIT`, and from there on its tangent, so that nothing overflows.

        x <= 10:  exp(x)          x > 10:  e^10 (1 + x - 10)

    The slope is continuous and at most e^10. Log-probability differences above 10 nats are not
    cut off: they keep their order and their gradient.

    Args:
        values: any shape. NaN stays NaN, and -inf gives 0.
    """
    # the exponential of a value that is not used must not overflow either
    top = math.exp(EXP_LIMIT)
    tangent = top * (1 + values - EXP_LIMIT)
    return torch.where(values > EXP_LIMIT, tangent, values.clamp(max=EXP_LIMIT).exp())


def segment_sum(values_T: Tensor, segments_T: Tensor, count: int) -> Tensor:
    """Sum of the values of each segment, (count,); an empty segment has 0.

    Args:
        values_T: values of all segments.
        segments_T: number of each value's segment, 0 to count - 1.
        count: number of segments.
    """
    return values_T.new_zeros(count).index_add(0, segments_T, values_T)


def segment_mean(values_T: Tensor, segments_T: Tensor, count: int) -> Tensor:
    """Mean of the values of each segment, (count,); an empty segment has 0. See `segment_sum`."""
    # an empty segment is divided by 1
    sizes = segment_sum(torch.ones_like(values_T), segments_T, count)
    return segment_sum(values_T, segments_T, count) / sizes.clamp_min(1.0)

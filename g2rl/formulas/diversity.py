"""Numbers of one group's directions and of pairs of responses: plain functions on arrays.

A group is G responses to one prompt. Its directions come as feature matrices (G, D), gradient
features or an encoder's embeddings, or as cosine matrices S (G, G) with S_ii = 1
(`g2rl.formulas.tensors.cosine_matrix`); everything is computed in float64. Corner cases are the
same everywhere:

    a group of one      has no pair, so means over pairs are NaN (undefined); its effective rank,
                        participation ratio and Vendi score are 1
    a zero-norm row     has cosine 0 with every other; it has no direction, so it does not count in
                        the effective rank and participation ratio, but is an item of its own to the
                        Vendi score
    only zero rows      effective rank and participation ratio are 0
    not finite          ValueError
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from g2rl.formulas.pairs import pair_values

Floats = NDArray[np.float64]

NEAR_ORTHOGONAL = 0.1
"""|cos| below which two directions count as nearly orthogonal."""
BINS = 20
"""Bins of the cosine histogram on [-1, 1], each 0.1 wide; its entropy is at most log 20 = 2.996
nats."""
NOT_POSITIVE = -1e-3
"""An eigenvalue of S below this is not due to rounding: S holds no cosines of real vectors."""


def cosines(features_GD: ArrayLike) -> Floats:
    """S (G, G) of one group's features: unit diagonal, zero rows have cosine 0 with every other."""
    import torch  # what reads stored numbers needs the names of this file and no torch

    from g2rl.formulas.tensors import cosine_matrix

    wide_GD = torch.as_tensor(_finite(features_GD, "features"))
    cosine_1GG, _ = cosine_matrix(wide_GD.unsqueeze(0))
    return cosine_1GG[0].numpy()


def zero_rows(features_GD: ArrayLike) -> int:
    """Number of rows without a direction."""
    _, is_zero_G = _unit_rows(features_GD)
    return int(is_zero_G.sum())


def mean_cosine(pairs: ArrayLike) -> float:
    """Mean over pairs; NaN of none."""
    values = np.asarray(pairs, dtype=np.float64)
    if not values.size:
        return math.nan
    return float(values.mean())


def negative_ratio(pairs: ArrayLike) -> float:
    """Share of pairs with a cosine below 0; NaN of none."""
    return mean_cosine(np.asarray(pairs, dtype=np.float64) < 0)


def near_orthogonal_ratio(pairs: ArrayLike, threshold: float = NEAR_ORTHOGONAL) -> float:
    """Share of pairs with |cos| < threshold; NaN of none.

    Two random directions in D dimensions have |cos| about 1 / sqrt(D), so in a wide space almost
    all pairs are near-orthogonal: compare models of one width only.
    """
    return mean_cosine(np.abs(np.asarray(pairs, dtype=np.float64)) < threshold)


def histogram(pairs: ArrayLike, bins: int = BINS) -> NDArray[np.int64]:
    """Counts of cosines in equal bins on [-1, 1], (bins,).

    The last bin holds 1 too. Values outside, by rounding, count in the bin at their end.
    """
    # numpy would leave out what lies outside the range
    values = np.clip(np.asarray(pairs, dtype=np.float64), -1.0, 1.0)
    counts, _ = np.histogram(values, bins=bins, range=(-1.0, 1.0))
    return counts


def histogram_entropy(pairs: ArrayLike, bins: int = BINS) -> float:
    """Entropy -sum p log p of the histogram in nats, in [0, log(bins)]; NaN of no pair.

    It is biased low by about (bins - 1) / (2 pairs): compare sets with equal numbers of pairs.
    """
    return float(entropy(histogram(pairs, bins)))


def entropy(counts: ArrayLike) -> Floats:
    """Entropy in nats of the shares that counts have in their sum, along the last axis.

    Args:
        counts: (..., K), >= 0.

    Returns:
        (...); NaN where all counts are 0.
    """
    weights = np.asarray(counts, dtype=np.float64)
    total = weights.sum(axis=-1, keepdims=True)
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)

    # 0 log 0 counts as 0
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    nats = -(shares * logs).sum(axis=-1) + 0.0  # never -0.0
    return np.where(total[..., 0] > 0, nats, math.nan)


def squared_singular_values(features_GD: ArrayLike) -> Floats:
    """sigma² of the unit features, (G,): the eigenvalues of their Gram matrix.

    They sum to the number of rows that are not zero.
    """
    unit_GD, _ = _unit_rows(features_GD)

    # rounding may leave tiny negative eigenvalues
    return np.clip(np.linalg.eigvalsh(unit_GD @ unit_GD.T), 0.0, None)


def effective_rank(features_GD: ArrayLike) -> float:
    """exp(H(sigma² / sum sigma²)) of the unit features: 1 for one direction, G for orthogonal ones.

    After Roy and Vetterli 2007, with sigma² (shares of the energy) in place of sigma. Without zero
    rows it *is* the Vendi score of S: the eigenvalues of S are sigma² and sum to G. With z of G
    rows zero, n = G - z,

        vendi = exp((n / G) log effective_rank + (n / G) log(G / n) + (z / G) log G)

    because each zero row is a further eigenvalue 1 of S.
    """
    squares_G = squared_singular_values(features_GD)
    if squares_G.sum() == 0:
        return 0.0
    return float(np.exp(entropy(squares_G)))


def participation_ratio(features_GD: ArrayLike) -> float:
    """(sum sigma²)² / sum sigma⁴ of the unit features, in [1, min(G, D)].

    Without zero rows this is G² / sum_ij S_ij²: the number of directions that share the energy
    evenly and give the same mean squared cosine.
    """
    squares_G = squared_singular_values(features_GD)
    if squares_G.sum() == 0:
        return 0.0
    return float(squares_G.sum() ** 2 / (squares_G**2).sum())


def vendi_score(cosine_GG: ArrayLike) -> float:
    """Effective number of items, exp(H(eigenvalues of S / G)).

    Friedman and Dieng 2022 (arXiv 2210.02410). It is 1 when all responses have one direction or its
    opposite, which this score does not tell apart, and G when all are orthogonal.

    Raises:
        ValueError: not square, diagonal not 1, not finite, or clearly not positive semi-definite.
    """
    # every direction has cosine 1 with itself
    square_GG = _finite(cosine_GG, "S")
    is_square = square_GG.shape[0] == square_GG.shape[1]
    if not is_square or not np.allclose(np.diag(square_GG), 1.0, atol=1e-5):
        raise ValueError(f"S must be square with ones on its diagonal, got shape {square_GG.shape}")

    # cosines of real vectors have no negative eigenvalue but by rounding
    eigenvalues_G = np.linalg.eigvalsh((square_GG + square_GG.T) / 2)
    smallest = eigenvalues_G[0]
    if smallest < NOT_POSITIVE:
        raise ValueError(
            f"S has the eigenvalue {smallest:.3g}: these are no cosines of real vectors"
        )
    return float(np.exp(entropy(np.clip(eigenvalues_G, 0.0, None))))


def group_numbers(
    features_GD: ArrayLike, correct_G: ArrayLike, threshold: float = NEAR_ORTHOGONAL
) -> dict[str, Any]:
    """Every number of one group by name, over all of its pairs.

    Args:
        features_GD: directions of the responses.
        correct_G: verdicts.
        threshold: of `near_orthogonal_ratio`.
    """
    cosine_GG = cosines(features_GD)
    pairs = pair_values(cosine_GG)
    return {
        "responses": len(cosine_GG),
        "correct": int(np.asarray(correct_G, dtype=bool).sum()),
        "zero_features": zero_rows(features_GD),
        "mean_cosine": mean_cosine(pairs),
        "negative_ratio": negative_ratio(pairs),
        "near_orthogonal_ratio": near_orthogonal_ratio(pairs, threshold),
        "effective_rank": effective_rank(features_GD),
        "participation_ratio": participation_ratio(features_GD),
        "vendi_score": vendi_score(cosine_GG),
    }


def _unit_rows(features_GD: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Rows of length 1 (G, D), zero where they have no direction, and which have none (G,)."""
    import torch  # see `cosines`

    from g2rl.formulas.tensors import unit_rows

    unit_GD, is_zero_G = unit_rows(torch.as_tensor(_finite(features_GD, "features")))
    return unit_GD.numpy(), is_zero_G.numpy()


def _finite(values: ArrayLike, name: str) -> Floats:
    """A matrix in float64.

    Raises:
        ValueError: not two axes, no row, or numbers that are not finite (with the first such row).
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] == 0:
        raise ValueError(f"{name} must be a matrix with at least one row, got shape {matrix.shape}")

    # a decomposition would fail without naming the row
    is_bad_row = ~np.isfinite(matrix).all(axis=1)
    if is_bad_row.any():
        first_bad = int(is_bad_row.argmax())
        raise ValueError(
            f"{name} is not finite in row {first_bad} ({int(is_bad_row.sum())} such rows)"
        )
    return matrix

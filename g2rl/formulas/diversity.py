"""Numbers of one group's directions and of pairs of responses: plain functions on arrays.

A group is G responses to one prompt. Its directions come as feature matrices (G, D), gradient
features or an encoder's embeddings, or as cosine matrices S (G, G) with S_ii = 1
(`g2rl.formulas.tensors.cosine_matrix`); everything is computed in float64. Corner cases, the same
everywhere:

    a group of one      has no pair (means over pairs are NaN: undefined), and rank, ratio and Vendi score 1
    a zero-norm row     has cosine 0 with every other; it has no direction, so it does not count in the
                        effective rank and participation ratio, but is an item of its own to the
                        Vendi score
    only zero rows      effective rank and participation ratio 0
    not finite          ValueError
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from g2rl.formulas.pairs import pair_values
from g2rl.formulas.tensors import cosine_matrix, unit_rows

Floats = NDArray[np.float64]

NEAR_ORTHOGONAL = 0.1
BINS = 20
"""Equal bins of the cosine histogram on [-1, 1], each 0.1 wide; entropy is at most log 20 = 2.996
nats."""
NOT_POSITIVE = -1e-3
"""Eigenvalues of S below this are no rounding: the matrix holds no cosines of real vectors."""


def cosines(features_GD: ArrayLike) -> Floats:
    """S (G, G) of one group's features: unit diagonal, zero rows have cosine 0 with every other."""
    wide_GD = _finite(features_GD, "features")
    return cosine_matrix(torch.as_tensor(wide_GD).unsqueeze(0))[0][0].numpy()


def zero_rows(features_GD: ArrayLike) -> int:
    """Number of rows without a direction."""
    return int(unit_rows(torch.as_tensor(_finite(features_GD, "features")))[1].sum())


def mean_cosine(pairs: ArrayLike) -> float:
    """Mean over pairs; NaN of none."""
    values = np.asarray(pairs, dtype=np.float64)
    return float(values.mean()) if values.size else math.nan


def negative_ratio(pairs: ArrayLike) -> float:
    """Share of pairs with a cosine below 0; NaN of none."""
    return mean_cosine(np.asarray(pairs, dtype=np.float64) < 0)


def near_orthogonal_ratio(pairs: ArrayLike, threshold: float = NEAR_ORTHOGONAL) -> float:
    """Share of pairs with |cos| < threshold; NaN of none.

    Two random directions in D dimensions have |cos| about 1 / sqrt(D), so in a wide space almost all pairs
    are near-orthogonal: compare models of one width only.
    """
    return mean_cosine(np.abs(np.asarray(pairs, dtype=np.float64)) < threshold)


def histogram(pairs: ArrayLike, bins: int = BINS) -> NDArray[np.int64]:
    """Counts in `bins` equal bins on [-1, 1], (bins,); the last holds 1, values just outside go to
    an end."""
    values = np.clip(np.asarray(pairs, dtype=np.float64), -1.0, 1.0)
    return np.histogram(values, bins=bins, range=(-1.0, 1.0))[0]


def histogram_entropy(pairs: ArrayLike, bins: int = BINS) -> float:
    """-sum p log p of the histogram in nats, in [0, log(bins)]; NaN of no pair.

    Biased low by about (bins - 1) / (2 pairs): compare sets with equal numbers of pairs.
    """
    return float(entropy(histogram(pairs, bins)))


def entropy(counts: ArrayLike) -> Floats:
    """Entropy in nats of the shares of non-negative counts along the last axis; NaN where they sum
    to 0."""
    # shares, 0 where there is nothing
    weights = np.asarray(counts, dtype=np.float64)
    total = weights.sum(axis=-1, keepdims=True)
    shares = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    found = -(shares * logs).sum(axis=-1) + 0.0  # no -0.0
    return np.where(total[..., 0] > 0, found, math.nan)


def squared_singular_values(features_GD: ArrayLike) -> Floats:
    """sigma² of the unit features (G,): eigenvalues of their Gram matrix; they sum to the rows not
    zero."""
    unit_GD = unit_rows(torch.as_tensor(_finite(features_GD, "features")))[0].numpy()
    return np.clip(np.linalg.eigvalsh(unit_GD @ unit_GD.T), 0.0, None)


def effective_rank(features_GD: ArrayLike) -> float:
    """exp(H(sigma² / sum sigma²)) of the unit features: 1 for one direction, G for an orthogonal
    set.

    After Roy and Vetterli 2007, with sigma² (shares of the energy) in place of sigma. Without zero
    rows it *is* the Vendi score of S: the eigenvalues of S are sigma² and sum to G. With z of G
    rows zero, n = G - z,

        vendi = exp((n / G) log effective_rank + (n / G) log(G / n) + (z / G) log G)

    because each zero row is a further eigenvalue 1 of S.
    """
    values = squared_singular_values(features_GD)
    return float(np.exp(entropy(values))) if values.sum() > 0 else 0.0


def participation_ratio(features_GD: ArrayLike) -> float:
    """(sum sigma²)² / sum sigma⁴ of the unit features, in [1, min(G, D)].

    Without zero rows this is G² / sum_ij S_ij²: the number of directions that share the energy
    evenly and give the same mean squared cosine.
    """
    values = squared_singular_values(features_GD)
    return float(values.sum() ** 2 / (values**2).sum()) if values.sum() > 0 else 0.0


def vendi_score(cosine_GG: ArrayLike) -> float:
    """exp(H(eigenvalues of S / G)), Friedman and Dieng 2022 (arXiv 2210.02410): effective number of
    items.

    1 when all are one direction or its opposite (no diversity to this score), G when all are
    orthogonal.

    Raises:
        ValueError: not square, diagonal not 1, not finite, or clearly not positive semi-definite.
    """
    # a matrix of cosines has ones on its diagonal
    square_GG = _finite(cosine_GG, "S")
    if square_GG.shape[0] != square_GG.shape[1] or not np.allclose(
        np.diag(square_GG), 1.0, atol=1e-5
    ):
        raise ValueError(f"S must be square with ones on its diagonal, got shape {square_GG.shape}")

    # and no negative eigenvalues but for rounding
    values = np.linalg.eigvalsh((square_GG + square_GG.T) / 2)
    if values[0] < NOT_POSITIVE:
        raise ValueError(
            f"S has the eigenvalue {values[0]:.3g}: these are no cosines of real vectors"
        )
    return float(np.exp(entropy(np.clip(values, 0.0, None))))


def group_numbers(
    features_GD: ArrayLike, correct_G: ArrayLike, threshold: float = NEAR_ORTHOGONAL
) -> dict[str, Any]:
    """Every number of one group, over all of its pairs."""
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


def _finite(values: ArrayLike, name: str) -> Floats:
    """A matrix in float64.

    Raises:
        ValueError: not two axes, no row, or numbers that are not finite (with the first such row).
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] == 0:
        raise ValueError(f"{name} must be a matrix with at least one row, got shape {matrix.shape}")

    # name the first row that is not finite
    bad = ~np.isfinite(matrix).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name} is not finite in row {int(bad.argmax())} ({int(bad.sum())} such rows)"
        )
    return matrix

"""Correlations over pairs of responses, with intervals from a bootstrap over groups.

Pairs of one group share responses and a prompt, so they are not independent: whole groups are
resampled. A resample is a vector of multiplicities, and both correlations are computed with
multiplicities as weights, which equals repeating the pairs; this makes thousands of resamples one
matrix operation.

Axis letters local to this module: n pairs, P groups, R resamples, C distinct values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from g2rl.formulas.estimators import Interval, bootstrap_interval

KINDS = ("pearson", "spearman")
_CELLS = 4_000_000  # resamples x pairs held at a time
_FLAT = 1e-12  # a spread below this share of the whole range is rounding noise


@dataclass(slots=True, frozen=True)
class Correlation:
    """One correlation over all pairs, and averaged over the groups in which it is defined."""

    pooled: Interval
    within: Interval
    """Mean over groups of the correlation inside the group; NaN when no group has one."""
    groups: int
    """Groups behind `within`: in the others one of the two quantities is constant."""
    undefined: int
    """Resamples in which a quantity is constant; they are left out of the interval of `pooled`."""


def weighted_pearson(x: np.ndarray, y: np.ndarray, weights_Rn: np.ndarray) -> np.ndarray:
    """Pearson's r of n pairs under each of R weightings, (R,); NaN where x or y is constant.

        r = sum w (x - mx)(y - my) / sqrt(sum w (x - mx)^2  sum w (y - my)^2)

    Args:
        x, y: (n,) or (R, n).
        weights_Rn: multiplicity of each pair, >= 0.
    """
    total_R1 = weights_Rn.sum(-1, keepdims=True)

    is_flat_R = np.zeros(len(weights_Rn), dtype=bool)
    deviations: list[np.ndarray] = []
    variances: list[np.ndarray] = []
    for values in (x, y):
        # deviations from the weighted mean; subtracting the plain mean first keeps digits
        near_zero = values - values.mean()
        mean_R1 = (weights_Rn * near_zero).sum(-1, keepdims=True) / total_R1
        deviation_Rn = near_zero - mean_R1
        variance_R = (weights_Rn * deviation_Rn**2).sum(-1)
        deviations.append(deviation_Rn)
        variances.append(variance_R)

        # a quantity that is constant but for rounding has no correlation
        noise_R = (_FLAT * np.ptp(values)) ** 2 * total_R1[:, 0]
        is_flat_R |= variance_R <= noise_R

    # r, where it is defined
    covariance_R = (weights_Rn * deviations[0] * deviations[1]).sum(-1)
    scale_R = np.sqrt(np.where(is_flat_R, 1.0, variances[0] * variances[1]))
    return np.where(is_flat_R, np.nan, np.clip(covariance_R / scale_R, -1.0, 1.0))


def weighted_midranks(x: np.ndarray, weights_Rn: np.ndarray) -> np.ndarray:
    """Ranks from 1 of n values under each weighting, ties sharing their mean rank, (R, n).

    With multiplicities as weights these are the ranks in the list in which each value is repeated.
    """
    # total weight of each distinct value, from the smallest to the largest
    _, code_n = np.unique(x, return_inverse=True)
    order = np.argsort(code_n, kind="stable")
    starts = np.flatnonzero(np.diff(code_n[order], prepend=-1))
    mass_RC = np.add.reduceat(weights_Rn[:, order], starts, axis=1)

    # equal values share the mean of the ranks behind all smaller ones
    below_RC = mass_RC.cumsum(axis=1) - mass_RC
    return (below_RC + (mass_RC + 1) / 2)[:, code_n]


def correlation(x: np.ndarray, y: np.ndarray, weights_Rn: np.ndarray, kind: str) -> np.ndarray:
    """Pearson's r, or Spearman's rho (Pearson's r of midranks), under each of R weightings.

    Args:
        x, y: (n,).
        weights_Rn: multiplicity of each pair, >= 0.
        kind: "pearson" or "spearman".

    Returns:
        (R,), NaN where x or y is constant.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if kind == "spearman":
        # ranks of absent values do not matter: their weight is 0
        ranks_x_Rn = weighted_midranks(x, weights_Rn)
        ranks_y_Rn = weighted_midranks(y, weights_Rn)
        return weighted_pearson(ranks_x_Rn, ranks_y_Rn, weights_Rn)
    return weighted_pearson(x, y, weights_Rn)


def point(x: np.ndarray, y: np.ndarray, kind: str) -> float:
    """The correlation of all pairs; NaN for fewer than two pairs or a constant quantity."""
    if len(x) < 2:
        return float("nan")
    return float(correlation(x, y, np.ones((1, len(x))), kind)[0])


def bootstrap_draws(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, kind: str, resamples: int, seed: int
) -> np.ndarray:
    """The pooled correlation in each resample of groups.

    The multiplicities of groups depend on the number of groups, `resamples` and `seed` alone, so
    the draws of two predictors are paired.

    Args:
        x, y: (n,).
        groups: (n,) number of each pair's group, from 0.
        kind: "pearson" or "spearman".
        resamples, seed: number of draws and their seed.

    Returns:
        (R,), NaN where the correlation is undefined.
    """
    # how often each group is drawn in each resample
    group_count = int(groups.max()) + 1
    rng = np.random.default_rng(seed)
    shares_P = np.full(group_count, 1 / group_count)
    picks_RP = rng.multinomial(group_count, shares_P, size=resamples).astype(float)

    # in blocks, so that weights_Rn stays within _CELLS
    block = max(1, _CELLS // len(x))
    draws = []
    for start in range(0, resamples, block):
        weights_Rn = picks_RP[start : start + block][:, groups]

        # none of the drawn groups may have a pair of the class
        has_pairs_R = weights_Rn.sum(-1) > 0
        block_draws_R = np.full(len(weights_Rn), np.nan)
        if has_pairs_R.any():
            block_draws_R[has_pairs_R] = correlation(x, y, weights_Rn[has_pairs_R], kind)
        draws.append(block_draws_R)
    return np.concatenate(draws)


def percentile_interval(value: float, draws: np.ndarray, confidence: float = 0.95) -> Interval:
    """A value with the percentile interval of the draws that are not NaN.

    The bounds are NaN when fewer than half of the draws have a value.
    """
    # too few defined draws say little of the spread
    defined = draws[~np.isnan(draws)]
    if 2 * len(defined) < len(draws):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def correlate(
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    kind: str,
    resamples: int = 2000,
    seed: int = 0,
) -> Correlation:
    """Correlation of x and y over pairs: pooled, and within groups, each with a 95 % interval.

    Args:
        x, y: (n,).
        groups: (n,) number of each pair's group, from 0; whole groups are resampled.
        kind: "pearson" or "spearman".
        resamples, seed: of the bootstrap.

    Raises:
        ValueError: no pair, or a value that is not finite.
    """
    if not len(x):
        raise ValueError("there is no pair to correlate")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a predictor or a true cosine is not finite")

    # over all pairs
    draws = bootstrap_draws(x, y, groups, kind, resamples, seed)
    pooled = percentile_interval(point(x, y, kind), draws)

    # inside each group, where it is defined
    by_group = []
    for group in np.unique(groups):
        in_group = groups == group
        r = point(x[in_group], y[in_group], kind)
        if not math.isnan(r):
            by_group.append(r)
    within = Interval(math.nan, math.nan, math.nan)
    if by_group:
        within = bootstrap_interval(by_group, resamples=resamples, seed=seed)

    return Correlation(pooled, within, len(by_group), int(np.isnan(draws).sum()))


def difference(
    x: np.ndarray,
    rival: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    kind: str,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """How much higher the pooled correlation of x with y is than that of a rival with y.

    The interval is paired: both correlations are taken on the same resamples. Arguments as in
    `correlate`.
    """
    # the same seed draws the same groups for both
    draws_R = bootstrap_draws(x, y, groups, kind, resamples, seed)
    rival_draws_R = bootstrap_draws(rival, y, groups, kind, resamples, seed)
    gap = point(x, y, kind) - point(rival, y, kind)
    return percentile_interval(gap, draws_R - rival_draws_R)

"""Correlation of two quantities over pairs of responses, with intervals from a bootstrap over
groups.

Pairs of one group share responses and a prompt, so they are not independent: whole groups are
resampled. A resample is a vector of multiplicities, and both correlations are computed with
multiplicities as weights, which equals repeating the pairs; this makes thousands of resamples one
matrix operation.
"""

from __future__ import annotations

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
    """Resamples without a value (a quantity constant in all of its groups), left out of the
    interval."""


def weighted_pearson(x: np.ndarray, y: np.ndarray, weights_Rn: np.ndarray) -> np.ndarray:
    """Pearson's r of n pairs under each of R weightings, (R,); NaN where x or y is constant.

        r = sum w (x - mx)(y - my) / sqrt(sum w (x - mx)^2  sum w (y - my)^2)

    Args:
        x, y: (n,) or (R, n).
        weights_Rn: >= 0, a multiplicity of each pair.
    """
    total_R1 = weights_Rn.sum(-1, keepdims=True)

    # deviations from the weighted means; centring first keeps digits
    centred = []
    for values in (x, y):
        middle = values - values.mean()
        mean_R1 = (weights_Rn * middle).sum(-1, keepdims=True) / total_R1
        centred.append(middle - mean_R1)
    first, second = centred

    # a quantity that is constant but for rounding has no correlation
    variance = [(weights_Rn * part**2).sum(-1) for part in centred]
    floor = [(_FLAT * np.ptp(values)) ** 2 * total_R1[:, 0] for values in (x, y)]
    flat_R = (variance[0] <= floor[0]) | (variance[1] <= floor[1])

    # r, where it is defined
    covariance_R = (weights_Rn * first * second).sum(-1)
    scale_R = np.sqrt(np.where(flat_R, 1.0, variance[0] * variance[1]))
    return np.where(flat_R, np.nan, np.clip(covariance_R / scale_R, -1.0, 1.0))


def weighted_midranks(x: np.ndarray, weights_Rn: np.ndarray) -> np.ndarray:
    """Ranks from 1 of n values under each weighting, ties sharing their mean rank, (R, n).

    With multiplicities as weights these are the ranks in the list in which each value is repeated.
    """
    # total weight of each distinct value
    _, code_n = np.unique(x, return_inverse=True)
    order = np.argsort(code_n, kind="stable")
    starts = np.flatnonzero(np.diff(code_n[order], prepend=-1))
    mass_RC = np.add.reduceat(weights_Rn[:, order], starts, axis=1)

    # ranks begin behind all that is smaller
    below_RC = mass_RC.cumsum(axis=1) - mass_RC
    return (below_RC + (mass_RC + 1) / 2)[:, code_n]


def correlation(x: np.ndarray, y: np.ndarray, weights_Rn: np.ndarray, kind: str) -> np.ndarray:
    """Pearson's r, or Spearman's rho (Pearson's r of midranks), under each of R weightings,
    (R,)."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    if kind == "spearman":
        # ranks of absent values do not matter: their weight is 0
        return weighted_pearson(
            weighted_midranks(x, weights_Rn), weighted_midranks(y, weights_Rn), weights_Rn
        )
    return weighted_pearson(x, y, weights_Rn)


def point(x: np.ndarray, y: np.ndarray, kind: str) -> float:
    """The correlation itself; NaN for fewer than two pairs or a constant quantity."""
    if len(x) < 2:
        return float("nan")
    return float(correlation(x, y, np.ones((1, len(x))), kind)[0])


def bootstrap_draws(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, kind: str, resamples: int, seed: int
) -> np.ndarray:
    """The pooled correlation in each resample of groups, (R,).

    Args:
        groups: (n,) number of each pair's group, from 0. The multiplicities are a function of the
            number of groups, `resamples` and `seed` alone, so draws of two predictors are paired.
    """
    # how often each group is drawn in each resample
    count = int(groups.max()) + 1
    rng = np.random.default_rng(seed)
    picks_RP = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)

    # as many resamples at a time as memory allows
    step = max(1, _CELLS // len(x))
    found = []
    for start in range(0, resamples, step):
        weights_Rn = picks_RP[start : start + step][:, groups]
        present_R = weights_Rn.sum(-1) > 0  # a pair class may miss from every chosen group
        values_R = np.full(len(weights_Rn), np.nan)
        if present_R.any():
            values_R[present_R] = correlation(x, y, weights_Rn[present_R], kind)
        found.append(values_R)
    return np.concatenate(found)


def percentile_interval(value: float, draws: np.ndarray, confidence: float = 0.95) -> Interval:
    """Percentile interval of the draws that have a value; NaN bounds when fewer than half have
    one."""
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
    """Correlation of x and y over pairs: pooled, and within groups, each with a 95 % interval over
    groups.

    Raises:
        ValueError: no pair, or a value that is not finite.
    """
    if not len(x):
        raise ValueError("there is no pair to correlate")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a predictor or a true cosine is not finite")

    # over all pairs, and inside each group
    draws = bootstrap_draws(x, y, groups, kind, resamples, seed)
    each = np.array([point(x[groups == p], y[groups == p], kind) for p in np.unique(groups)])
    each = each[~np.isnan(each)]
    nothing = Interval(float("nan"), float("nan"), float("nan"))
    return Correlation(
        pooled=percentile_interval(point(x, y, kind), draws),
        within=bootstrap_interval(each, resamples=resamples, seed=seed) if len(each) else nothing,
        groups=len(each),
        undefined=int(np.isnan(draws).sum()),
    )


def difference(
    x: np.ndarray,
    rival: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    kind: str,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """How much better x correlates with y than a rival does: pooled difference, paired over
    resamples."""
    gap = bootstrap_draws(x, y, groups, kind, resamples, seed)
    gap = gap - bootstrap_draws(rival, y, groups, kind, resamples, seed)
    return percentile_interval(point(x, y, kind) - point(rival, y, kind), gap)

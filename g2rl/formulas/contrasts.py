"""Tests of differences between two arms whose runs are paired by their seed.

The runs of a seed are one cluster: they share training problems, held-out problems and random
numbers, and the held-out problems of a run share its weights. So a difference enters as one number
a seed, its mean over problems, and seeds alone are counted as independent.

    D_s = mean_b (x_sb - y_sb),    mean D ± t(S - 1) · s / sqrt(S),    T = mean D · sqrt(S) / s

with s the standard deviation of D over S seeds, S - 1 in the denominator. Assumes that the D_s are
independent and about normal. They say what to expect of other seeds on the same held-out problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from mpmath import betainc, mpf  # type: ignore[import-untyped]
from numpy.typing import ArrayLike

from g2rl.formulas.estimators import Interval
from g2rl.formulas.intervals import seed_interval, t_quantile

POWER = 0.8
"""Probability with which a detectable difference is found."""
_GRID = 2_000  # points at which the power is integrated


class Contrast(NamedTuple):
    """A difference between two arms: ``Contrast(0.02, 0.01, 0.03, 0.004, 5, 0.008)``.

    The interval and the p value are those of this difference alone; see `holm`.
    """

    difference: float
    low: float
    high: float
    """Bounds of the interval; NaN for one seed."""
    p_value: float
    """Two-sided, of no difference; NaN for one seed."""
    seeds: int
    spread: float
    """Standard deviation of the differences over seeds; NaN for one seed."""


def by_seed(differences: ArrayLike) -> np.ndarray:
    """One difference a seed, (S,): the mean over problems of differences (S, B), or (S,) itself.

    Raises:
        ValueError: another number of axes, no seed, or a value that is not finite.
    """
    # problems of a seed are averaged, whatever their number
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim not in (1, 2) or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(
            f"differences must be finite, one a seed (S,) or (S, B); got shape {values.shape}"
        )
    return values if values.ndim == 1 else values.mean(axis=1)


def paired_interval(differences: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean difference and its t-interval, clustered by seed.

    Args:
        differences: one a seed (S,), or one a seed and problem (S, B).
        confidence: in (0, 1).

    Returns:
        Both ends are NaN for one seed.
    """
    return seed_interval(by_seed(differences), confidence)


def paired_contrast(differences: ArrayLike, confidence: float = 0.95) -> Contrast:
    """The paired t-test over seeds, with the interval that belongs to it.

    Differences that are all equal have p = 0, or p = 1 if they are all zero.

    Args:
        differences: one a seed (S,), or one a seed and problem (S, B).
        confidence: of the interval.
    """
    # one seed shows no spread, so nothing can be tested
    differences_S = by_seed(differences)
    seeds = differences_S.size
    mean, low, high = seed_interval(differences_S, confidence)
    if seeds == 1:
        return Contrast(mean, low, high, math.nan, 1, math.nan)

    # the test statistic, unless nothing varies
    spread = float(differences_S.std(ddof=1))
    if spread == 0:
        p_value = 1.0 if mean == 0 else 0.0
    else:
        p_value = t_tail(mean * math.sqrt(seeds) / spread, seeds - 1)
    return Contrast(mean, low, high, p_value, seeds, spread)


def t_tail(t: float, freedom: int) -> float:
    """P(|T| >= |t|) for Student's T, the two-sided p value.

    It is I_x(freedom / 2, 1 / 2) with x = freedom / (freedom + t²) and I the regularised incomplete
    beta function (Abramowitz & Stegun 26.7.1).

    Args:
        t: the statistic.
        freedom: degrees of freedom, >= 1.

    Raises:
        ValueError: freedom < 1, or t is NaN.
    """
    if freedom < 1 or math.isnan(t):
        raise ValueError(f"need freedom >= 1 and a number, got {freedom} and {t}")

    # an infinite t gives x = 0, and so a tail of 0
    x = mpf(freedom) / (freedom + mpf(t) * mpf(t))
    return float(betainc(mpf(freedom) / 2, mpf(1) / 2, 0, x, regularized=True))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p values of a family, so that any false finding among them is rare (Holm 1979).

    With p_(1) <= ... <= p_(m):   p~_(i) = max_{j <= i} min(1, (m - j + 1) p_(j))

    Rejecting where p~ <= α keeps the probability of one or more false rejections at α or below,
    whatever the dependence between the tests.

    Args:
        p_values: of all m members of the family. NaN is a test that could not be made; it counts
            as a member and stays NaN.

    Raises:
        ValueError: a p value outside [0, 1].
    """
    # nan stands for a comparison that could not be tested
    outside = [p for p in p_values if not math.isnan(p) and not 0 <= p <= 1]
    if outside:
        raise ValueError(f"p values lie in [0, 1], got {outside}")

    # from the smallest on; an adjusted value is never below that of a smaller one
    adjusted = [math.nan] * len(p_values)
    tested = [place for place, p in enumerate(p_values) if not math.isnan(p)]
    largest = 0.0
    for rank, place in enumerate(sorted(tested, key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def detectable_difference(
    spread: float, seeds: int, level: float = 0.05, power: float = POWER
) -> float:
    """The smallest true difference that the paired t-test would have found with this probability.

    "No difference seen" means something only beside this number. For a family of m tests give
    level / m, which is what the smallest p value must pass under Holm's method.

    Args:
        spread: standard deviation of the differences over seeds; taken as the true one.
        seeds: S.
        level: of the test, two-sided.
        power: the probability.

    Returns:
        In the units of the spread; NaN for fewer than two seeds.

    Raises:
        ValueError: level or power outside (0, 1), or a power that the level alone gives.
    """
    if not 0 < level < power < 1:
        raise ValueError(f"need 0 < level < power < 1, got {level} and {power}")
    if seeds < 2 or math.isnan(spread):
        return math.nan
    return spread * _detectable_in_spreads(seeds, level, power)


@lru_cache(maxsize=256)
def _detectable_in_spreads(seeds: int, level: float, power: float) -> float:
    """`detectable_difference` for a spread of 1."""
    # bracket the difference, then halve the bracket
    low, high = 0.0, 1.0
    while paired_power(high, seeds, level) < power:
        low, high = high, 2 * high
    for _ in range(40):  # to 12 digits
        middle = (low + high) / 2
        if paired_power(middle, seeds, level) < power:
            low = middle
        else:
            high = middle
    return high


def paired_power(effect: float, seeds: int, level: float = 0.05) -> float:
    """Probability that the two-sided paired t-test rejects.

        P(|(Z + δ) / W| > t),   δ = effect · sqrt(S),   Z normal,   (S - 1) W² chi-squared

    that is, the tails of the non-central t distribution, integrated numerically over W.

    Args:
        effect: the true difference in units of the spread.
        seeds: S >= 2.
        level: of the test.
    """
    # where the test rejects, and how far the truth shifts the statistic
    freedom = seeds - 1
    critical = t_quantile(1 - level, freedom)
    shift = effect * math.sqrt(seeds)

    # density of W on a grid that holds practically all of it
    end = 1 + 8 / math.sqrt(freedom)
    w = (np.arange(_GRID) + 0.5) * (end / _GRID)
    log_density = (freedom - 1) * np.log(w) - freedom * w * w / 2
    density = np.exp(log_density - log_density.max())
    density /= density.sum()

    # given W, both tails are those of a normal variable
    upper = [normal_tail(critical * point - shift) for point in w]
    lower = [normal_tail(critical * point + shift) for point in w]
    return float(density @ (np.array(upper) + np.array(lower)))


def normal_tail(z: float) -> float:
    """P(Z > z) for a standard normal Z."""
    return 0.5 * math.erfc(z / math.sqrt(2))

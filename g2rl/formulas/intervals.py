"""Intervals over training runs that differ in their seed only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from mpmath import betainc, findroot, mp, mpf  # type: ignore[import-untyped]
from numpy.typing import ArrayLike

from g2rl.formulas.estimators import Interval


@lru_cache(maxsize=256)
def t_quantile(confidence: float, freedom: int) -> float:
    """The t with P(|T| <= t) = confidence for Student's T: ``t_quantile(0.95, 2)`` is 4.303.

    Solves P(|T| > t) = I_x(freedom / 2, 1 / 2) with x = freedom / (freedom + t²) for t, where I is
    the regularised incomplete beta function (Abramowitz & Stegun 26.7.1).

    Args:
        confidence: in (0, 1).
        freedom: degrees of freedom, >= 1.

    Raises:
        ValueError: confidence outside (0, 1), freedom < 1.
    """
    if not 0 < confidence < 1 or freedom < 1:
        raise ValueError(f"need 0 < confidence < 1 <= freedom, got {confidence} and {freedom}")

    def gap(t: mpf) -> mpf:
        """P(|T| <= t) - confidence."""
        x = mpf(freedom) / (freedom + t * t)
        return 1 - betainc(mpf(freedom) / 2, mpf(1) / 2, 0, x, regularized=True) - mpf(confidence)

    # bracket the root, then find it
    high = mpf(1)
    while gap(high) < 0:
        high *= 2
    with mp.workdps(20):
        return float(findroot(gap, (mpf(0), high), solver="anderson"))


def within_share(ends: ArrayLike) -> np.ndarray:
    """Ends of intervals of shares, of any shape, cut off at 0 and 1: beyond lies no share.

    A t-interval knows no bounds. NaN, the end of no interval, stays NaN.
    """
    return np.clip(ends, 0.0, 1.0)


def seed_interval(
    values: Sequence[float] | np.ndarray, confidence: float = 0.95, is_share: bool = False
) -> Interval:
    """Mean over seeds and its t-interval: mean ± t · s / sqrt(n), s with n - 1 in the denominator.

    Assumes that runs are independent and their values about normal. One seed says nothing of the
    spread: both ends are NaN.

    Args:
        values: one a seed.
        confidence: in (0, 1).
        is_share: whether values lie between 0 and 1, where the interval then ends.

    Raises:
        ValueError: no value, or one that is not finite.
    """
    values_S = np.asarray(values, dtype=np.float64)
    if values_S.ndim != 1 or values_S.size == 0 or not np.isfinite(values_S).all():
        raise ValueError(f"need one finite value a seed, got {values_S}")

    # one seed has no spread
    mean = float(values_S.mean())
    if values_S.size == 1:
        return Interval(mean, math.nan, math.nan)

    # wider than the normal interval, because few seeds tell little of their spread
    quantile = t_quantile(confidence, values_S.size - 1)
    half_width = quantile * float(values_S.std(ddof=1)) / math.sqrt(values_S.size)
    low, high = mean - half_width, mean + half_width
    if is_share:
        low, high = map(float, within_share((low, high)))
    return Interval(mean, low, high)

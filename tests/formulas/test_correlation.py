"""Correlations over pairs against hand-worked values, pandas and scipy; the bootstrap against
repetition."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from g2rl.formulas.correlation import (
    bootstrap_draws,
    correlate,
    correlation,
    difference,
    percentile_interval,
    point,
    weighted_midranks,
)


def test_hand_worked_values_and_ties() -> None:
    assert point(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4]), "pearson") == pytest.approx(
        0.8
    )
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: covariance 4.5, squares 4.5 and 5
    x, y = np.array([10.0, 20, 20, 90]), np.array([1.0, 3, 2, 4])
    assert point(x, y, "spearman") == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert weighted_midranks(x, np.ones((1, 4))).tolist() == [[1, 2.5, 2.5, 4]]
    assert point(x, -np.exp(x / 50), "spearman") == pytest.approx(-1)
    with pytest.raises(ValueError, match="kind"):
        point(x, y, "kendall")


def test_multiplicities_equal_repeated_pairs() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(6, size=40).astype(float), rng.normal(size=40)
    y += x
    weights = rng.integers(0, 4, size=(7, 40)).astype(float)
    for kind in ("pearson", "spearman"):
        found = correlation(x, y, weights, kind)
        for row, value in zip(weights.astype(int), found, strict=True):
            repeated = pd.DataFrame({"x": np.repeat(x, row), "y": np.repeat(y, row)})
            assert value == pytest.approx(repeated.corr(method=kind).loc["x", "y"], abs=1e-12)


def test_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    x, y = rng.integers(9, size=200).astype(float), rng.integers(5, size=200).astype(float)
    assert point(x, y, "pearson") == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
    assert point(x, y, "spearman") == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_bootstrap_resamples_whole_groups(kind: str) -> None:
    rng = np.random.default_rng(2)
    groups = np.repeat([0, 1, 2, 3], [3, 5, 2, 4])
    x, y = rng.normal(size=14), rng.normal(size=14)
    found = bootstrap_draws(x, y, groups, kind, resamples=25, seed=9)
    picks = np.random.default_rng(9).multinomial(4, np.full(4, 0.25), size=25)
    for counts, value in zip(picks, found, strict=True):
        rows = np.concatenate(
            [np.flatnonzero(groups == p) for p in range(4) for _ in range(counts[p])]
        )
        repeated = pd.DataFrame({"x": x[rows], "y": y[rows]})
        assert value == pytest.approx(repeated.corr(method=kind).loc["x", "y"], abs=1e-12)


def test_correlation_inside_groups_is_averaged_where_it_exists() -> None:
    groups = np.repeat([0, 1, 2], 3)
    x = np.array([1.0, 2, 3, 1, 2, 3, 5, 5, 5])
    y = np.array([1.0, 2, 3, 9, 8, 7, 1, 2, 3])
    found = correlate(x, y, groups, "spearman", resamples=200)
    assert found.within.value == pytest.approx(0)
    assert (found.within.low, found.within.high) == (-1, 1)
    assert found.groups == 2, "the third group has a constant predictor"
    assert found.undefined > 0, "a resample of the third group alone has no correlation"


def test_what_is_constant_or_not_finite() -> None:
    groups, y = np.repeat([0, 1], 3), np.arange(6.0)
    found = correlate(np.full(6, 0.1), y, groups, "pearson", resamples=20)
    assert math.isnan(found.pooled.value)
    assert math.isnan(found.pooled.low)
    assert math.isnan(found.within.value)
    assert (found.groups, found.undefined) == (0, 20)
    with pytest.raises(ValueError, match="not finite"):
        correlate(np.full(6, np.nan), y, groups, "pearson")
    with pytest.raises(ValueError, match="no pair"):
        correlate(y[:0], y[:0], groups[:0], "pearson")
    assert math.isnan(percentile_interval(0.5, np.array([np.nan, np.nan, 0.5])).low)


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(3)
    groups, y = np.repeat(np.arange(30), 5), rng.normal(size=150)
    good, bad = y + rng.normal(size=150), rng.normal(size=150)
    same = difference(good, good, y, groups, "spearman", resamples=100)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    found = difference(good, bad, y, groups, "pearson", resamples=300)
    assert found.low > 0.3
    assert found.value == pytest.approx(point(good, y, "pearson") - point(bad, y, "pearson"))


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Groups share an offset in both quantities, so intervals that resample pairs would be too
    narrow."""
    rng = np.random.default_rng(4)
    groups, hits = np.repeat(np.arange(25), 6), 0
    for trial in range(100):
        shared = rng.normal(size=(2, 25))[:, groups]
        x, y = shared + rng.normal(size=(2, 150)) * 0.5  # truth: 0
        found = percentile_interval(0.0, bootstrap_draws(x, y, groups, "pearson", 200, trial))
        hits += found.low <= 0 <= found.high
    assert hits >= 85

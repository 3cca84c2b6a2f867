"""Paired contrasts: against scipy-free oracles, printed tables and simulation."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest

from g2rl.formulas.contrasts import (
    detectable_difference,
    holm,
    paired_contrast,
    paired_interval,
    paired_power,
    t_tail,
)
from g2rl.formulas.intervals import t_quantile


def test_tails_are_those_of_printed_tables() -> None:
    for t, freedom, p in ((12.706, 1, 0.05), (4.303, 2, 0.05), (2.776, 4, 0.05), (4.604, 4, 0.01)):
        assert t_tail(t, freedom) == pytest.approx(p, abs=4e-5)
        assert t_tail(-t, freedom) == t_tail(t, freedom)
    assert t_tail(0.0, 3) == 1.0
    assert t_tail(1.0, 1) == pytest.approx(0.5), "the quartiles of Cauchy"
    for freedom in (1, 2, 4, 30):
        assert t_tail(t_quantile(0.9, freedom), freedom) == pytest.approx(0.1, abs=1e-9)
    for bad in ((1.0, 0), (math.nan, 3)):
        with pytest.raises(ValueError, match="freedom"):
            t_tail(*bad)


def test_a_contrast_worked_by_hand() -> None:
    """D = 0.01, 0.03, 0.02: mean 0.02, s = 0.01, T = 0.02 sqrt(3) / 0.01 = 3.464, p = 0.0742."""
    contrast = paired_contrast([0.01, 0.03, 0.02])
    assert contrast.difference == pytest.approx(0.02)
    assert (contrast.low, contrast.high) == pytest.approx((-0.00484, 0.04484), abs=1e-4)
    assert contrast.p_value == pytest.approx(0.0742, abs=1e-4)
    assert contrast.seeds == 3
    assert contrast.spread == pytest.approx(0.01)


def test_problems_of_a_seed_are_one_cluster() -> None:
    differences_SB = np.array([[0.0, 0.02], [0.06, 0.0], [0.02, 0.02]])
    assert paired_contrast(differences_SB) == pytest.approx(paired_contrast([0.01, 0.03, 0.02]))
    assert paired_interval(differences_SB) == paired_contrast(differences_SB)[:3]


def test_degenerate_differences() -> None:
    one = paired_contrast([0.3])
    assert one.difference == 0.3
    assert all(math.isnan(value) for value in (one.low, one.high, one.p_value, one.spread))
    assert paired_contrast([0.0, 0.0]).p_value == 1.0
    assert paired_contrast([0.1, 0.1]).p_value == 0.0
    for bad in ([], [math.nan, 1.0], np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match="differences must be finite"):
            paired_contrast(bad)


def test_the_interval_excludes_zero_exactly_if_the_test_rejects() -> None:
    rng = np.random.default_rng(0)
    for differences_S in rng.normal(0.5, 1.0, (300, 4)):
        contrast = paired_contrast(differences_S, confidence=0.9)
        assert (contrast.p_value < 0.1) == (not contrast.low <= 0 <= contrast.high)


def closed_testing(p_values: list[float]) -> list[float]:
    """Holm by its definition as a closed test with Bonferroni on every subset: brute force."""
    members = range(len(p_values))
    adjusted = []
    for place in members:
        worst = 0.0
        for mask in range(1, 2 ** len(p_values)):
            subset = [i for i in members if mask >> i & 1]
            if place in subset:
                worst = max(worst, min(1.0, len(subset) * min(p_values[i] for i in subset)))
        adjusted.append(worst)
    return adjusted


def test_holm_is_the_closed_bonferroni_test() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 2, 3, 5):
        for _ in range(20):
            p_values = (rng.random(size) ** 3).tolist()
            assert holm(p_values) == pytest.approx(closed_testing(p_values))
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]), "worked by hand"
    for order in permutations([0.01, 0.02, 0.5]):
        assert sorted(holm(list(order))) == pytest.approx([0.03, 0.04, 0.5])
    assert holm([]) == []


def test_a_test_that_could_not_be_made_counts_as_a_member() -> None:
    first, second = holm([0.02, math.nan])
    assert first == pytest.approx(0.04)
    assert math.isnan(second)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([0.1, 1.2])


def test_holm_holds_the_level_over_a_family() -> None:
    """Two true nulls and two true differences: false rejections at most 5 %."""
    rng = np.random.default_rng(2)
    false, found = 0, 0
    for _ in range(400):
        shared_S = rng.normal(0, 1, 5)
        effects = (0.0, 0.0, 3.0, 3.0)
        p_values = [
            paired_contrast(shared_S + rng.normal(effect, 1, 5)).p_value for effect in effects
        ]
        adjusted = holm(p_values)
        false += min(adjusted[:2]) <= 0.05
        found += adjusted[2] <= 0.05
    assert false <= 33, "0.05 and three standard errors"
    assert found > 120, "or nothing would ever be found"


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_intervals_clustered_by_seed_cover_and_others_do_not(seeds: int) -> None:
    """Runs with an effect of their own, held-out problems answered by 16 coin tosses each.

    Taking seed and problem for independent units is the control, and covers far too seldom.
    """
    rng = np.random.default_rng(seeds)
    simulations, problems, effect = 6_000, 40, 0.1

    # each of the two runs of a seed moves the solve rates of all problems up or down
    shift_KS1 = rng.normal(effect, 0.06, (simulations, seeds, 1))
    rate_1B = rng.uniform(0.3, 0.6, (1, problems))
    better = rng.binomial(16, np.clip(rate_1B + shift_KS1, 0, 1), (simulations, seeds, problems))
    base = rng.binomial(16, rate_1B, (simulations, seeds, problems))
    differences_KSB = (better - base) / 16

    # the formulas, over all simulations at once; a few of them through the code itself
    clusters_KS = differences_KSB.mean(-1)
    mean_K = clusters_KS.mean(-1)
    half_K = t_quantile(0.95, seeds - 1) * clusters_KS.std(-1, ddof=1) / math.sqrt(seeds)
    for k in range(20):
        interval = paired_interval(differences_KSB[k])
        assert interval == pytest.approx((mean_K[k], mean_K[k] - half_K[k], mean_K[k] + half_K[k]))
    covered = np.mean(np.abs(mean_K - effect) <= half_K)
    assert covered == pytest.approx(0.95, abs=0.009)

    flat_KN = differences_KSB.reshape(simulations, -1)
    naive_K = 1.96 * flat_KN.std(-1, ddof=1) / math.sqrt(flat_KN.shape[1])
    assert np.mean(np.abs(mean_K - effect) <= naive_K) < 0.93


@pytest.mark.parametrize(("seeds", "level"), [(2, 0.05), (5, 0.05), (5, 0.05 / 6), (12, 0.01)])
def test_a_detectable_difference_is_found_with_the_stated_probability(
    seeds: int, level: float
) -> None:
    difference = detectable_difference(2.0, seeds, level)
    rng = np.random.default_rng(4)
    draws_KS = rng.normal(difference, 2.0, (40_000, seeds))
    t_K = draws_KS.mean(-1) * math.sqrt(seeds) / draws_KS.std(-1, ddof=1)
    found = np.mean(np.abs(t_K) > t_quantile(1 - level, seeds - 1))
    assert found == pytest.approx(0.8, abs=0.008)


def test_power_has_its_limits() -> None:
    assert paired_power(0.0, 5) == pytest.approx(0.05, abs=1e-4), "the level itself"
    assert paired_power(100.0, 3) == pytest.approx(1.0)
    # many seeds: the normal approximation, (1.960 + 0.842) / sqrt(S)
    assert detectable_difference(1.0, 1_000) == pytest.approx(2.802 / math.sqrt(1_000), rel=3e-3)
    assert math.isnan(detectable_difference(1.0, 1))
    assert detectable_difference(0.0, 4) == 0.0
    with pytest.raises(ValueError, match="level < power"):
        detectable_difference(1.0, 5, level=0.9)

"""Numbers of directions and pairs: closed forms, cases worked by hand, and brute force."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from g2rl.analysis.geometry.numbers import group_frame, numbers, pair_frame, sums_interval
from g2rl.formulas.diversity import (
    BINS,
    cosines,
    effective_rank,
    entropy,
    group_numbers,
    histogram,
    histogram_entropy,
    mean_cosine,
    near_orthogonal_ratio,
    negative_ratio,
    participation_ratio,
    squared_singular_values,
    vendi_score,
    zero_rows,
)
from g2rl.formulas.estimators import bootstrap_interval
from g2rl.formulas.pairs import pair_values

RNG = np.random.default_rng(0)


def test_an_orthonormal_set_has_full_rank() -> None:
    rows = 3.0 * np.linalg.qr(RNG.normal(size=(9, 9)))[0][:5]  # 5 directions in 9 dimensions
    np.testing.assert_allclose(cosines(rows), np.eye(5), atol=1e-12)
    for value in (effective_rank(rows), participation_ratio(rows), vendi_score(np.eye(5))):
        assert value == pytest.approx(5)
    pairs = pair_values(np.eye(5))
    assert (
        len(pairs),
        mean_cosine(pairs),
        negative_ratio(pairs),
        near_orthogonal_ratio(pairs),
    ) == (
        10,
        0,
        0,
        1,
    )
    assert histogram_entropy(pairs) == 0, "all in one bin"


def test_one_repeated_vector_has_rank_one_whatever_its_lengths() -> None:
    rows = np.outer([1.0, 1e-3, 7.0, 1e6], [3.0, -4.0, 12.0])
    pairs = pair_values(cosines(rows))
    np.testing.assert_allclose(pairs, np.ones(6))
    assert (mean_cosine(pairs), negative_ratio(pairs), near_orthogonal_ratio(pairs)) == (1, 0, 0)
    for value in (effective_rank(rows), participation_ratio(rows), vendi_score(cosines(rows))):
        assert value == pytest.approx(1)


def test_antipodal_pairs_are_one_direction_each() -> None:
    """v, -v, w, -w with v and w orthogonal: two pairs at -1, four at 0; sigma² = 2, 2, 0, 0."""
    rows = np.array([[2.0, 0], [-1, 0], [0, 5], [0, -3]])
    pairs = pair_values(cosines(rows))
    np.testing.assert_allclose(sorted(pairs), [-1, -1, 0, 0, 0, 0])
    assert mean_cosine(pairs) == pytest.approx(-1 / 3)
    assert negative_ratio(pairs) == pytest.approx(1 / 3)
    assert near_orthogonal_ratio(pairs) == pytest.approx(2 / 3)
    assert histogram_entropy(pairs) == pytest.approx(
        -(1 / 3) * math.log(1 / 3) - (2 / 3) * math.log(2 / 3)
    )
    for value in (effective_rank(rows), participation_ratio(rows), vendi_score(cosines(rows))):
        assert value == pytest.approx(2)


def test_two_vectors_at_an_angle_by_hand() -> None:
    """cos = 0.6: eigenvalues of S are 1.6 and 0.4, shares 0.8 and 0.2."""
    rows = np.array([[1.0, 0.0], [6.0, 8.0]])
    expected = math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
    assert effective_rank(rows) == pytest.approx(expected)
    assert vendi_score(cosines(rows)) == pytest.approx(expected)
    assert participation_ratio(rows) == pytest.approx(4 / (1.6**2 + 0.4**2))


@pytest.mark.parametrize(("group", "width"), [(2, 1), (5, 3), (6, 20), (8, 8)])
def test_equal_cosines_have_the_closed_spectrum_and_random_ones_that_of_an_svd(
    group: int, width: int
) -> None:
    rows = RNG.normal(size=(group, width))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    sigma2 = np.linalg.svd(unit, compute_uv=False) ** 2
    share = sigma2 / sigma2.sum()
    share = share[share > 1e-15]
    assert effective_rank(rows) == pytest.approx(math.exp(-(share * np.log(share)).sum()))
    assert participation_ratio(rows) == pytest.approx(1 / (share**2).sum())
    assert participation_ratio(rows) == pytest.approx(group**2 / (cosines(rows) ** 2).sum())
    assert squared_singular_values(rows).sum() == pytest.approx(group)
    rho = 0.3  # S = (1 - rho) I + rho 11': one eigenvalue 1 + (G - 1) rho, the others 1 - rho
    even = np.full((group, group), rho) + (1 - rho) * np.eye(group)
    top, rest = (1 + (group - 1) * rho) / group, (1 - rho) / group
    assert vendi_score(even) == pytest.approx(top**-top * rest ** (-(group - 1) * rest))


@pytest.mark.parametrize("zeros", [0, 1, 3])
def test_effective_rank_and_vendi_score_are_related(zeros: int) -> None:
    """Equal without zero rows; each zero row is an item of its own to the Vendi score alone."""
    rows = np.vstack([RNG.normal(size=(5, 4)), np.zeros((zeros, 4))])
    total, n = 5 + zeros, 5
    rank = effective_rank(rows)
    assert rank == pytest.approx(effective_rank(rows[:5])), "zero rows have no direction"
    log_vendi = n / total * (math.log(rank) + math.log(total / n)) + zeros / total * math.log(total)
    assert math.log(vendi_score(cosines(rows))) == pytest.approx(log_vendi)
    assert zero_rows(rows) == zeros


def test_a_zero_vector_a_group_of_one_and_nothing_but_zeros_are_defined() -> None:
    rows = np.array([[1.0, 0], [0, 0], [1, 0]])
    np.testing.assert_array_equal(cosines(rows), [[1, 0, 1], [0, 1, 0], [1, 0, 1]])
    assert (effective_rank(rows), participation_ratio(rows)) == pytest.approx((1, 1))
    # eigenvalues 2, 1, 0 of S
    assert vendi_score(cosines(rows)) == pytest.approx(
        math.exp(-2 / 3 * math.log(2 / 3) - 1 / 3 * math.log(1 / 3))
    )
    alone = group_numbers([[3.0, 4.0]], [True])
    assert [
        alone[k] for k in ("effective_rank", "participation_ratio", "vendi_score")
    ] == pytest.approx([1, 1, 1])
    for name in ("mean_cosine", "negative_ratio", "near_orthogonal_ratio"):
        assert math.isnan(alone[name]), name
    assert math.isnan(histogram_entropy([]))
    nothing = group_numbers(np.zeros((3, 2)), [True, False, False])
    assert (
        nothing["effective_rank"],
        nothing["participation_ratio"],
        nothing["zero_features"],
    ) == (0, 0, 3)
    assert nothing["vendi_score"] == pytest.approx(3)
    assert (nothing["mean_cosine"], nothing["correct"]) == (0, 1)


def test_what_is_no_set_of_directions_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite in row 1"):
        effective_rank([[1.0, 2.0], [math.nan, 1.0]])
    with pytest.raises(ValueError, match="at least one row"):
        cosines(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="ones on its diagonal"):
        vendi_score([[1.0, 0.0], [0.0, 2.0]])
    with pytest.raises(ValueError, match="no cosines of real vectors"):
        vendi_score([[1, 0.9, -0.9], [0.9, 1, 0.9], [-0.9, 0.9, 1]])


def test_histogram_bins_are_tenths_and_the_ends_are_closed() -> None:
    counts = histogram([-1.0, -1.0 - 1e-9, -0.05, 0.0, 0.05, 0.99, 1.0, 1.0 + 1e-9])
    assert len(counts) == BINS == 20
    assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == {0: 2, 9: 1, 10: 2, 19: 3}
    assert histogram_entropy(np.linspace(-0.95, 0.95, BINS)) == pytest.approx(math.log(BINS))
    assert histogram_entropy([0.5, 0.5, -0.5, -0.5], bins=2) == pytest.approx(math.log(2))
    assert entropy([3, 0, 0]) == 0
    assert math.isnan(entropy([0, 0]))
    np.testing.assert_allclose(entropy([[1, 1], [1, 0]]), [math.log(2), 0])


def test_pairs_are_those_above_the_diagonal_and_thresholds_are_strict() -> None:
    assert pair_values(np.array([[1, 2, 3], [2, 1, 4], [3, 4, 1]])).tolist() == [2, 3, 4]
    assert near_orthogonal_ratio([0.1, -0.1, 0.0999], 0.1) == pytest.approx(1 / 3)
    assert negative_ratio([0.0, -1e-9, 1.0]) == pytest.approx(1 / 3), "zero is not negative"


def worked() -> tuple[torch.Tensor, torch.Tensor]:
    """Two groups: cosines 1, 0, 0 (correct, correct, wrong) and -1, 0, 0 (wrong, wrong,
    correct)."""
    features = torch.tensor([[[1.0, 0], [2, 0], [0, 1]], [[1, 0], [-1, 0], [0, 1]]])
    return features, torch.tensor([[True, True, False], [False, False, True]])


def test_numbers_are_pooled_by_pair_class() -> None:
    features, correct = worked()
    pairs, groups = pair_frame(features, correct), group_frame(features, correct)
    assert pairs["cosine"].tolist() == [1, 0, 0, -1, 0, 0]
    assert pairs["pair"].tolist() == [
        "correct-correct",
        "correct-wrong",
        "correct-wrong",
        "wrong-wrong",
        "correct-wrong",
        "correct-wrong",
    ]
    table = numbers(pairs, groups).set_index(["pair", "metric"])
    for name, mean, negative, near in (
        ("all", 0, 1 / 6, 4 / 6),
        ("correct-correct", 1, 0, 0),
        ("correct-wrong", 0, 0, 1),
        ("wrong-wrong", -1, 1, 0),
    ):
        for metric, value in (
            ("mean_cosine", mean),
            ("negative_ratio", negative),
            ("near_orthogonal_ratio", near),
        ):
            assert table.loc[(name, metric), "value"] == pytest.approx(value), (name, metric)
    assert table.loc[
        ("all", "mean_cosine"), ["low", "high", "pairs", "problems"]
    ].tolist() == pytest.approx([-1 / 3, 1 / 3, 6, 2])
    assert table.loc[("correct-correct", "mean_cosine"), ["pairs", "problems"]].tolist() == [1, 1]
    assert table.loc[("all", "effective_rank"), "value"] == pytest.approx(
        math.exp(-2 / 3 * math.log(2 / 3) - 1 / 3 * math.log(1 / 3))
    )
    shares = np.array([4, 1, 1]) / 6
    assert table.loc[("all", "histogram_entropy"), "value"] == pytest.approx(
        -(shares * np.log(shares)).sum()
    )


def test_intervals_of_a_class_weigh_groups_by_their_pairs() -> None:
    """Of three groups the extreme resamples (one group three times, 1 in 27) are the 2.5 % and 97.5
    % points.

    They hold 4, 6 and 4 mixed pairs.
    """
    features = torch.as_tensor(np.random.default_rng(2).normal(size=(3, 5, 2)))
    correct = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()
    pairs = pair_frame(features, correct)
    mixed = pairs[pairs["pair"] == "correct-wrong"]
    table = numbers(pairs, group_frame(features, correct)).set_index(["pair", "metric"])
    found = table.loc[("correct-wrong", "mean_cosine")]
    each = mixed.groupby("problem")["cosine"].mean()
    assert found["value"] == pytest.approx(mixed["cosine"].mean())
    assert found["value"] != pytest.approx(each.mean(), abs=1e-3), (
        "pooled, not averaged over groups"
    )
    assert (found["low"], found["high"]) == pytest.approx((each.min(), each.max()))


def test_a_class_without_pairs_has_no_row_and_numbers_match_group_averages() -> None:
    features = torch.as_tensor(RNG.normal(size=(6, 4, 3)))
    correct = torch.ones(6, 4, dtype=torch.bool)
    pairs, groups = pair_frame(features, correct), group_frame(features, correct)
    table = numbers(pairs, groups)
    assert set(table["pair"]) == {"all", "correct-correct"}
    for metric in ("mean_cosine", "negative_ratio", "near_orthogonal_ratio"):
        found = table[(table["pair"] == "all") & (table["metric"] == metric)].iloc[0]
        assert found["value"] == pytest.approx(groups[metric].mean()), (
            "equal groups: pooling is averaging"
        )
        plain = bootstrap_interval(
            groups[metric].to_numpy()
        )  # other draws: equal up to Monte Carlo error
        assert (found["low"], found["high"]) == pytest.approx((plain.low, plain.high), abs=0.02)


def test_the_interval_of_a_ratio_is_that_of_listing_every_resample() -> None:
    parts = np.array([[1.0, 2.0], [4.0, 4.0], [0.0, 1.0]])
    ratios = [
        parts[list(picks)].sum(0)[0] / parts[list(picks)].sum(0)[1]
        for picks in np.ndindex(3, 3, 3)  # all 27 resamples of three groups
    ]
    found = sums_interval(parts, lambda s: s[..., 0] / s[..., 1], confidence=0.6, resamples=200_000)
    assert found.value == pytest.approx(5 / 7)
    low, high = np.quantile(ratios, [0.2, 0.8])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    one = sums_interval(parts[:1], lambda s: s[..., 0] / s[..., 1])
    assert one == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="not empty"):
        sums_interval(np.zeros((0, 2)), lambda s: s[..., 0])


def test_numbers_do_not_depend_on_the_order_of_rows_in_the_frame() -> None:
    features, correct = worked()
    pairs, groups = pair_frame(features, correct), group_frame(features, correct)
    shuffled = pairs.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(numbers(pairs, groups), numbers(shuffled, groups))

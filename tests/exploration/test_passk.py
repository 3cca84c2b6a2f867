"""Pass@k against the authors' function re-derived, enumeration of sets, and a gradient."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from g2rl.exploration.passk import (
    PassK,
    analytic,
    leave_one_out,
    max_at_k,
    pkpo,
    sets_with_each,
)
from tests.exploration.groups import batch_of


def every_count(n: int) -> torch.Tensor:
    """Groups with 0 to n right responses."""
    return torch.tensor([[1.0] * c + [0.0] * (n - c) for c in range(n + 1)]).double()


def authors_advantage(values: list[float], k: int) -> list[float]:
    """`calc_adv` of arXiv 2508.10751 in plain words; combinations of negative numbers are 0."""

    def comb(n: int, j: int) -> float:
        return math.comb(n, j) if n >= 0 else 0.0

    n, c = len(values), sum(value == 1 for value in values)
    rho = 1 - comb(n - c, k) / comb(n, k)
    sigma = math.sqrt(rho * (1 - rho))
    right = (1 - rho) / (sigma + 1e-6)
    wrong = (1 - rho - comb(n - c - 1, k - 1) / comb(n - 1, k - 1)) / (sigma + 1e-6)
    return [right if value == 1 else wrong for value in values]


@pytest.mark.parametrize(("n", "k"), [(16, 4), (8, 1), (8, 8), (5, 3)])
def test_analytic_is_the_authors_function(n: int, k: int) -> None:
    groups = every_count(n)
    for group, advantages in zip(groups.tolist(), analytic(groups, k).tolist(), strict=True):
        assert advantages == pytest.approx(authors_advantage(group, k), abs=1e-9)


def test_trap_easy_groups_get_no_gradient_and_uniform_ones_nothing() -> None:
    """n = 16, k = 4: the gap between right and wrong is exactly 0 from c = 13 on."""
    advantages = analytic(every_count(16), 4)
    for c in range(1, 16):
        gap = float(advantages[c, 0] - advantages[c, -1])
        assert (gap == pytest.approx(0, abs=1e-12)) == (c >= 13)
    assert (advantages[[0, 16]] == 0).all()


def test_trap_the_estimators_differ_by_four_where_they_are_called_the_same() -> None:
    """n = 16, c = 12, k = 4: gaps 0.0094 and 0.0022 (to two digits)."""
    group = every_count(16)[12:13]
    plain, other = pkpo(group, 4, "none")[0], leave_one_out(group, 4)[0]
    # without the factor n / (n - 1) of leaving one out
    assert float(other[0] - other[-1]) * 15 / 16 == pytest.approx(4 / 455)
    assert float(plain[0] - plain[-1]) == pytest.approx(4 / 16 * 1 / 455 * 1)


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_pkpo_is_the_enumeration_of_sets(k: int) -> None:
    """For any rewards, with ties: s_i = sum over sets with i of max g / C(n, k)."""
    values = [0.3, -1.0, 2.0, 0.3, 0.0, 1.5]
    n, tensor = 6, torch.tensor([values]).double()
    sets = list(itertools.combinations(range(n), k))
    maxima = {members: max(values[i] for i in members) for members in sets}
    sums = [sum(m for members, m in maxima.items() if i in members) / len(sets) for i in range(n)]
    assert sets_with_each(tensor, k)[0].tolist() == pytest.approx(sums)
    assert float(max_at_k(tensor, k)) == pytest.approx(sum(maxima.values()) / len(sets))

    # the published baseline: the best of the set without i, for each set with i
    without = []
    for i in range(n):
        rest = [max((values[j] for j in s if j != i), default=np.nan) for s in sets if i in s]
        without.append(sums[i] - sum(rest) / len(sets))
    if k > 1:
        assert pkpo(tensor, k)[0].tolist() == pytest.approx(without)
    else:  # k = 1: there is no best of none; the mean of the others instead
        others = [(sum(values) - v) / 5 for v in values]
        expected = [(v - o) / 6 for v, o in zip(values, others, strict=True)]
        assert pkpo(tensor, 1)[0].tolist() == pytest.approx(expected)


def test_pkpo_with_the_other_baseline_leaves_each_response_out() -> None:
    """s_i - 1 / (n - 1) sum_{j != i} s_j, where s_j is computed without i."""
    values = torch.tensor([[0.0, 1.0, 1.0, 0.5, 0.0]]).double()
    expected = []
    for i in range(5):
        others = torch.cat([values[:, :i], values[:, i + 1 :]], dim=1)
        expected.append(
            float(sets_with_each(values, 3)[0, i] - sets_with_each(others, 3).sum() / 4)
        )
    assert pkpo(values, 3, "loo")[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("baseline", ["none", "loo", "loo_minus_one"])
def test_pkpo_is_an_unbiased_gradient_of_passk(baseline: str) -> None:
    """d pass@k / dx, over all outcomes of n draws at a success rate of p = sigmoid(x)."""
    n, k, x = 4, 2, 0.3
    p = 1 / (1 + math.exp(-x))
    gradient = 0.0
    for group in itertools.product([1.0, 0.0], repeat=n):
        probability = math.prod(p if value else 1 - p for value in group)
        weights = pkpo(torch.tensor([group]).double(), k, baseline)[0].tolist()
        score = [value - p for value in group]  # d log p(value) / dx
        gradient += probability * sum(w * s for w, s in zip(weights, score, strict=True))
    assert gradient == pytest.approx(k * (1 - p) ** (k - 1) * p * (1 - p))


def test_leave_one_out_is_the_authors_function() -> None:
    """arXiv 2602.02710's `compute_pkpo_outcome_advantage`, hand-worked for n = 4, c = 2, k = 2."""
    # w = C(2, 1) / C(3, 1) = 2/3 for right ones: (4 * 2/3 - 4/3) / 3 and (0 - 4/3) / 3
    group = torch.tensor([[1.0, 0.0, 1.0, 0.0]]).double()
    assert leave_one_out(group, 2)[0].tolist() == pytest.approx([4 / 9, -4 / 9] * 2)


def test_the_signal_uses_zero_and_one_and_refuses_small_groups() -> None:
    shaped = PassK(k=2, estimator="pkpo", baseline="none")(batch_of([[1, 0, 0, 0]]))
    # right: k / n; wrong: 2/4 (1 - C(2, 1) / C(3, 1)); -1 for a wrong one would lower it
    assert shaped.advantages_PG[0].tolist() == pytest.approx([1 / 2] + [1 / 6] * 3)
    assert shaped.rewards_PG.tolist() == [[1.0, -1.0, -1.0, -1.0]]
    assert shaped.metrics["passk"] == pytest.approx(0.5)
    assert PassK(k=4, estimator="pkpo", baseline="loo").smallest_group == 5
    with pytest.raises(ValueError, match=r"k=4 needs groups of at least 4, got 3"):
        PassK()(batch_of([[1, 0, 0]]))
    for settings in ({"k": 0}, {"estimator": "best"}, {"baseline": "mean"}, {"eps": 0.0}):
        with pytest.raises(ValueError, match="exploration"):
            PassK(**settings)

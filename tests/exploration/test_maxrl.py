"""MaxRL by hand, by its limit, and as an unbiased gradient of the truncated series."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from g2rl.exploration.maxrl import MaxRL, truncated, truncated_with_baseline
from tests.exploration.groups import batch_of


def test_hand_worked_group_and_the_trap_of_the_other_convention() -> None:
    """p = 1/4: (1 - 1/4) / (1/4) = 3 and -1. On -1 and +1 the mean would be -1/2."""
    batch = batch_of([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    shaped = MaxRL()(batch)
    assert shaped.advantages_PG[0].tolist() == pytest.approx([3, -1, -1, -1], rel=1e-4)
    assert (shaped.advantages_PG[1:] == 0).all()
    assert torch.equal(shaped.rewards_PG, batch.rewards_PG)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_truncations_are_unbiased_gradients_of_the_series(order: int) -> None:
    """d/dx of -sum_k (1 - p)^k / k up to `order`, over all outcomes of 5 draws, p = sigmoid(x)."""
    n, x = 5, -0.4
    p = 1 / (1 + math.exp(-x))
    gradient = 0.0
    for group in itertools.product([1.0, 0.0], repeat=n):
        probability = math.prod(p if value else 1 - p for value in group)
        weights = truncated(torch.tensor([group]).double(), order)[0].tolist()
        total = sum(w * (value - p) for w, value in zip(weights, group, strict=True))
        gradient += probability * total / n
    expected = sum((1 - p) ** (k - 1) for k in range(1, order + 1)) * p * (1 - p)
    assert gradient == pytest.approx(expected)


def test_the_whole_series_is_nearly_the_full_form() -> None:
    """Gap between right and wrong: n / (c + 1) summed, n / c in full."""
    groups = torch.tensor([[1.0] * c + [0.0] * (8 - c) for c in range(1, 8)]).double()
    for c, advantages in enumerate(truncated(groups, 8).tolist(), start=1):
        assert advantages[0] - advantages[-1] == pytest.approx(8 / (c + 1))


def test_the_baseline_by_hand() -> None:
    """n = 4, f = 3, T = 2: q = C(3, 2) / (C(4, 2) - 1) = 3/5; wrong 3/5 (1 - 4/3) = -1/5."""
    group = torch.tensor([[1.0, 0, 0, 0]]).double()
    assert truncated_with_baseline(group, 2)[0].tolist() == pytest.approx([1.6, -0.2, -0.2, -0.2])
    # all wrong: terms cancel, but the tuple of all n keeps its -1 if T reaches it
    wrong = torch.zeros(1, 4).double()
    assert truncated_with_baseline(wrong, 3)[0].tolist() == pytest.approx([0.0] * 4)
    assert truncated_with_baseline(wrong, 4)[0].tolist() == pytest.approx([-1.0] * 4)


def test_trap_all_wrong_groups_are_punished_by_the_plain_truncation_only() -> None:
    batch = batch_of([[0, 0, 0, 0]])
    assert MaxRL(order=3)(batch).advantages_PG[0].tolist() == [-2.0] * 4
    assert MaxRL()(batch).advantages_PG[0].tolist() == [0.0] * 4
    assert MaxRL(order=1)(batch_of([[1, 0]])).advantages_PG[0].tolist() == [1.0, 0.0]


def test_wrong_settings_are_named() -> None:
    for settings in ({"order": 0}, {"baseline": "mean"}, {"eps": 0.0}):
        with pytest.raises(ValueError, match="exploration"):
            MaxRL(**settings)

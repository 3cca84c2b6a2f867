"""The anti-novelty control by hand: agreement with the centroid is paid."""

from __future__ import annotations

import math

import pytest
import torch

from g2rl.exploration.agreement import Agreement
from tests.exploration.groups import batch_of


def test_right_responses_near_the_centroid_are_paid_more() -> None:
    """Right: x, x, y. Centroid (2, 1), so the cosines are 2, 2 and 1 over sqrt 5, mean 5/3."""
    vectors = torch.tensor([[[3.0, 0], [1, 0], [0, 2], [5, 0], [0, 0]]])
    shaped = Agreement()(batch_of([[1, 1, 1, 0, 0]], features_PGD=vectors))
    bonus = 0.5 * (2 - 5 / 3) / math.sqrt(5)
    assert shaped.rewards_PG[0].tolist() == pytest.approx([1 + bonus, 1 + bonus, 1, 0, 0])
    agreement = shaped.diagnostics["agreement"][0].tolist()
    assert agreement == pytest.approx([x / math.sqrt(5) for x in (2, 2, 1, 2, 0)])


def test_directions_that_cancel_and_groups_without_right_responses_pay_nothing() -> None:
    vectors = torch.tensor([[[1.0, 0], [-1, 0]], [[1, 0], [0, 1]]])
    shaped = Agreement(features="embeddings")(batch_of([[1, 1], [0, 0]], embeddings_PGE=vectors))
    assert shaped.rewards_PG.tolist() == [[1, 1], [0, 0]]


def test_what_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="features"):
        Agreement()(batch_of([[1, 0]]))
    for settings in ({"beta": -1}, {"features": "x"}):
        with pytest.raises(ValueError, match="exploration"):
            Agreement(**settings)

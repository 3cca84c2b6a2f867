"""DARLING by hand: clusters, the floor, the variants."""

from __future__ import annotations

import pytest
import torch

from g2rl.exploration.darling import Darling
from g2rl.formulas.advantages import GroupAdvantage
from tests.exploration.groups import batch_of

PARTITION = torch.tensor([[7, 7, 7, 2, 3]])


def test_right_responses_are_paid_by_the_share_of_the_group_elsewhere() -> None:
    """Clusters of 3, 1, 1 of 5: (5 - 3) / 4 and (5 - 1) / 4; the wrong one earns 0."""
    shaped = Darling()(batch_of([[1, 1, 0, 1, 0]], partition_PG=PARTITION))
    assert shaped.rewards_PG.tolist() == [[0.5, 0.5, 0.0, 1.0, 0.0]]
    assert shaped.metrics == {"clusters": 3.0, "largest_cluster": pytest.approx(0.6)}


def test_advantages_are_centred_and_not_divided_whatever_the_algorithm_says() -> None:
    batch = batch_of([[1, 1, 0, 1, 0]], partition_PG=PARTITION)
    shaped = Darling()(batch)
    found, _ = GroupAdvantage()(shaped.rewards_PG, batch.rewards_PG, shaped.advantage_scale)
    assert found[0].tolist() == pytest.approx([0.1, 0.1, -0.4, 0.6, -0.4])
    assert Darling(spread=None)(batch).advantage_scale is None


def test_trap_wrong_responses_count_as_something_else_unless_left_out() -> None:
    """Among the right ones 0, 1, 3: one of two others is elsewhere; for 3 both are."""
    shaped = Darling(among="correct")(batch_of([[1, 1, 0, 1, 0]], partition_PG=PARTITION))
    assert shaped.rewards_PG.tolist() == [[0.5, 0.5, 0.0, 1.0, 0.0]]
    alone = Darling(among="correct")(batch_of([[1, 0, 0]], partition_PG=torch.tensor([[0, 1, 2]])))
    assert alone.rewards_PG[0].tolist() == pytest.approx([0.1, 0, 0])


def test_trap_one_cluster_is_worth_the_floor() -> None:
    shaped = Darling()(batch_of([[1, 1, 0]], partition_PG=torch.zeros(1, 3, dtype=torch.int64)))
    assert shaped.rewards_PG[0].tolist() == pytest.approx([0.1, 0.1, 0])


def test_what_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="partition"):
        Darling()(batch_of([[1, 0]]))
    for settings in ({"floor": 2.0}, {"among": "wrong"}, {"spread": "mean"}):
        with pytest.raises(ValueError, match=f"exploration.{next(iter(settings))}"):
            Darling(**settings)

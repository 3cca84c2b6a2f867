"""Poly-EPO's closed form against the list of all sets."""

from __future__ import annotations

import itertools

import pytest
import torch

from g2rl.exploration.poly_epo import PolyEPO, set_scores
from tests.exploration.groups import batch_of


@pytest.mark.parametrize(("n", "size"), [(8, 4), (5, 1), (5, 5), (6, 2), (1, 1), (2, 2)])
def test_both_means_are_those_of_all_sets(n: int, size: int) -> None:
    rng = torch.Generator().manual_seed(n)
    rewards = (torch.rand(6, n, generator=rng) < 0.5).double()
    clusters = torch.randint(0, 3, (6, n), generator=rng)
    with_each, overall = set_scores(rewards, clusters, size)
    for p in range(6):
        scores = {}
        for members in itertools.combinations(range(n), size):
            right = sum(float(rewards[p, i]) for i in members) / size
            distinct = len({int(clusters[p, i]) for i in members}) / size
            scores[members] = right * distinct
        assert float(overall[p]) == pytest.approx(sum(scores.values()) / len(scores))
        for i in range(n):
            own = [score for members, score in scores.items() if i in members]
            assert float(with_each[p, i]) == pytest.approx(sum(own) / len(own))


def test_hand_worked_group_pays_the_rare_right_response_and_the_trap() -> None:
    """Sets of 2 of (right a, right a, right b, wrong c): f = 1/2, 1, 1/2, 1, 1/2, 1/2."""
    batch = batch_of([[1, 1, 1, 0]], partition_PG=torch.tensor([[0, 0, 4, 9]]))
    found = PolyEPO(set_size=2)(batch).advantages_PG[0].tolist()
    assert found == pytest.approx([0.0, 0.0, 5 / 6 - 2 / 3, 0.5 - 2 / 3])

    # trap: a wrong response in a cluster of its own may be above 0 beside copies of a right one
    batch = batch_of([[1, 1, 1, 0]], partition_PG=torch.tensor([[0, 0, 0, 9]]))
    assert PolyEPO(set_size=3)(batch).advantages_PG[0, 3] > 0


def test_small_groups_and_what_is_missing_are_named() -> None:
    with pytest.raises(ValueError, match="partition"):
        PolyEPO()(batch_of([[1, 0, 0, 0]]))
    with pytest.raises(ValueError, match=r"set_size=4 .* got 2"):
        PolyEPO()(batch_of([[1, 0]], partition_PG=torch.tensor([[0, 1]])))
    with pytest.raises(ValueError, match="set_size"):
        PolyEPO(set_size=0)

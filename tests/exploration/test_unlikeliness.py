"""The unlikeliness reward by hand, with the authors' two rankings."""

from __future__ import annotations

import pytest
import torch

from g2rl.exploration.unlikeliness import Unlikeliness, ranks
from tests.exploration.groups import batch_of


def given() -> object:
    """Sums -6, -2, -4, -3 of 6, 1, 8, 3 tokens: means -1, -2, -0.5, -1."""
    return batch_of(
        [[1, 0, 1, 1]],
        logp_sum_PG=torch.tensor([[-6.0, -2.0, -4.0, -3.0]]),
        lengths_PG=torch.tensor([[6, 1, 8, 3]]),
    )


def test_trap_the_code_ranks_mean_log_probabilities_and_the_paper_sums() -> None:
    """By means the ranks are 1.5, 0, 3, 1.5 (a tie), by sums 0, 3, 1, 2; beta / G = 1/16."""
    by_mean = Unlikeliness()(given()).rewards_PG[0].tolist()
    assert by_mean == pytest.approx([1 - 1.5 / 16, 0, 1 - 3 / 16, 1 - 1.5 / 16])
    by_sum = Unlikeliness(length_normalised=False)(given()).rewards_PG[0].tolist()
    assert by_sum == pytest.approx([1, 0, 1 - 1 / 16, 1 - 2 / 16])


def test_trap_wrong_responses_are_ranked_too_but_earn_nothing() -> None:
    """The wrong one is the likeliest, so no right one has the highest rank."""
    batch = batch_of([[0, 1, 1]], logp_sum_PG=torch.tensor([[-1.0, -3.0, -2.0]]))
    shaped = Unlikeliness(beta=1.0)(batch)
    assert shaped.diagnostics["rank"].tolist() == [[2.0, 0.0, 1.0]]
    assert shaped.rewards_PG[0].tolist() == pytest.approx([0, 1, 2 / 3])


def test_trap_a_group_of_right_responses_gets_a_signal() -> None:
    batch = batch_of([[1, 1]], logp_sum_PG=torch.tensor([[-1.0, -2.0]]))
    assert Unlikeliness()(batch).rewards_PG.tolist() == [[0.875, 1.0]]


def test_ties_share_their_rank_whatever_their_order() -> None:
    assert ranks(torch.tensor([[5.0, 1, 5, 5]])).tolist() == [[2.0, 0.0, 2.0, 2.0]]
    assert ranks(torch.tensor([[5.0]])).tolist() == [[0.0]]


def test_what_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="log-probabilities"):
        Unlikeliness()(batch_of([[1, 0]]))
    with pytest.raises(ValueError, match="beta"):
        Unlikeliness(beta=1.5)

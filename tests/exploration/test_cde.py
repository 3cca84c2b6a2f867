"""CDE's actor bonus by hand, its decay, and the trap of the reward convention."""

from __future__ import annotations

import pytest
import torch

from g2rl.exploration.cde import CuriosityBonus
from tests.exploration.groups import batch_of


def given() -> object:
    """Mean negative log-probabilities 0.1, 2, 0.25, and an empty response."""
    return batch_of(
        [[1, 1, 0, 0]],
        logp_sum_PG=torch.tensor([[-0.4, -4.0, -0.5, 0.0]]),
        lengths_PG=torch.tensor([[4, 2, 2, 0]]),
    )


def test_trap_wrong_responses_are_paid_on_minus_one_and_one_and_not_on_zero_and_one() -> None:
    """min(|r| / 3, B): 0.1, 1/3, 0.25, 0; with |r| = 0 there is no bonus for wrong ones."""
    pm1 = CuriosityBonus()(given()).rewards_PG[0].tolist()
    assert pm1 == pytest.approx([1.1, 4 / 3, -0.75, -1.0])
    zero_one = CuriosityBonus(reward="01")(given()).rewards_PG[0].tolist()
    assert zero_one == pytest.approx([1.1, 4 / 3, 0.0, 0.0])


def test_alpha_and_kappa_scale_and_bound() -> None:
    found = CuriosityBonus(kappa=1.0, alpha=2.0, omega=0.5)(given()).rewards_PG[0].tolist()
    assert found == pytest.approx([1.1, 1.5, -0.75, -1.0])


def test_omega_falls_in_stairs_to_zero() -> None:
    signal = CuriosityBonus(omega=1.0, decay_steps=10, stairs=5)
    weights = [signal.weight(step) for step in range(1, 13)]
    assert weights == pytest.approx([1, 1, 0.8, 0.8, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2, 0, 0])
    batch = given()
    batch.step = 11
    assert torch.equal(signal(batch).rewards_PG, batch.rewards_PG)
    assert CuriosityBonus(decay_steps=None).weight(10**6) == 1.0


def test_a_probability_rounded_above_one_is_no_penalty() -> None:
    batch = batch_of([[1]], logp_sum_PG=torch.tensor([[1e-7]]))
    assert CuriosityBonus()(batch).rewards_PG.tolist() == [[1.0]]


def test_what_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="log-probabilities"):
        CuriosityBonus()(batch_of([[1, 0]]))
    wrong = ({"omega": -1}, {"kappa": 0}, {"alpha": -1}, {"stairs": 0}, {"decay_steps": 0})
    for settings in (*wrong, {"reward": "1"}):
        with pytest.raises(ValueError, match="exploration"):
            CuriosityBonus(**settings)

"""Risk-sensitive advantages against the published function, its limits, and its traps."""

from __future__ import annotations

import math

import pytest
import torch

from g2rl.exploration.risk_sensitive import RiskSensitive, exponential_utility
from tests.exploration.groups import batch_of


@pytest.mark.parametrize("beta", [-3.0, 0.5, 2.0, 8.0])
def test_it_is_the_published_function(beta: float) -> None:
    """(exp(beta (r - soft)) - 1) / beta with soft = (logsumexp(beta r) - log n) / beta."""
    rewards = [1.0, 0.0, 0.0, 0.25, 1.0]
    soft = (math.log(sum(math.exp(beta * r) for r in rewards)) - math.log(5)) / beta
    expected = [(math.exp(beta * (r - soft)) - 1) / beta for r in rewards]
    found = exponential_utility(torch.tensor([rewards]).double(), beta)[0].tolist()
    assert found == pytest.approx(expected)


def test_trap_rewards_of_minus_one_and_one_would_double_beta() -> None:
    """One of two right, beta = 2: mean utility (1 + e^2) / 2, whatever the base rewards are."""
    found = RiskSensitive()(batch_of([[1, 0]])).advantages_PG[0].tolist()
    mean = (1 + math.exp(2)) / 2
    assert found == pytest.approx([(math.exp(2) / mean - 1) / 2, (1 / mean - 1) / 2])


def test_limits() -> None:
    batch = batch_of([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    plain = RiskSensitive(beta=0)(batch).advantages_PG
    assert plain[0].tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25])
    torch.testing.assert_close(RiskSensitive(beta=1e-6)(batch).advantages_PG, plain)
    # a right response of a group of G weighs G / beta at most
    extreme = RiskSensitive(beta=1e4)(batch).advantages_PG
    assert extreme[0].tolist() == pytest.approx([3e-4, -1e-4, -1e-4, -1e-4])
    assert (extreme[1:] == 0).all()
    with pytest.raises(ValueError, match="beta"):
        RiskSensitive(beta=float("inf"))

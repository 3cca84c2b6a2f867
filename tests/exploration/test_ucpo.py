"""UCPO against the published function re-derived, and the trap of its normalisation."""

from __future__ import annotations

import math

import pytest
import torch

from g2rl.exploration.ucpo import UniformCorrect, uniform_weights
from tests.exploration.groups import batch_of


def published(logps: list[float], tau: float) -> list[float]:
    """Weights of the right responses: `compute_dgrpo_advantage_outcome_invq_l` in plain words."""
    total = math.log(sum(math.exp(x) for x in logps))
    q = [max(math.exp(x - total), 1e-6) for x in logps]
    inverse = [1 / x for x in q]
    target = [x / sum(inverse) for x in inverse]
    return [len(q) * ((1 - tau) / len(q) + tau * x) for x in target]


@pytest.mark.parametrize("tau", [0.0, 0.2, 1.0])
def test_it_is_the_published_redistribution(tau: float) -> None:
    """Means -0.5, -0.7, -2 of the right ones; wrong ones and the total keep theirs."""
    batch = batch_of(
        [[1, 0, 1, 1, 0]],
        advantages_PG=torch.tensor([[0.8, -1.2, 0.8, 0.8, -1.2]]),
        logp_sum_PG=torch.tensor([[-2.0, -9.0, -1.4, -2.0, -0.1]]),
        lengths_PG=torch.tensor([[4, 3, 2, 1, 2]]),
    )
    found = UniformCorrect(tau=tau)(batch).advantages_PG[0].tolist()
    a, b, c = published([-0.5, -0.7, -2.0], tau)
    assert found == pytest.approx([0.8 * a, -1.2, 0.8 * b, 0.8 * c, -1.2])
    assert sum(found) == pytest.approx(0.0, abs=1e-6)


def test_trap_means_of_tokens_hardly_move_the_weights_and_sums_do() -> None:
    """Two right responses of 20 tokens whose means differ by 0.1 nats, so their sums by 2."""
    batch = batch_of(
        [[1, 1, 0]],
        advantages_PG=torch.ones(1, 3),
        logp_sum_PG=torch.tensor([[-10.0, -12.0, -1.0]]),
        lengths_PG=torch.tensor([[20, 20, 20]]),
    )
    by_mean = UniformCorrect()(batch).diagnostics["uniform_weight"][0]
    by_sum = UniformCorrect(length_normalised=False)(batch).diagnostics["uniform_weight"][0]
    assert abs(float(by_mean[1]) - 1) < 0.011
    assert float(by_sum[1]) - 1 > 0.15


def test_the_least_q_bounds_the_weight() -> None:
    """exp(-40) would take all the credit of tau; q is 1e-6 at least."""
    logps = torch.tensor([[0.0, -40.0, -40.0]])
    weights = uniform_weights(logps, torch.ones(1, 3, dtype=torch.bool), 1.0)[0].tolist()
    assert weights == pytest.approx([3e-6 / (2 + 1e-6), 1.5, 1.5], rel=1e-5)


@pytest.mark.parametrize("verdicts", [[0, 0], [1, 0]])
def test_fewer_than_two_right_responses_are_left_alone(verdicts: list[int]) -> None:
    given = torch.tensor([[2.0, -5.0]])
    weights = uniform_weights(given, torch.tensor([verdicts]) > 0, 1.0)
    assert weights.tolist() == [[1.0, 1.0]]


def test_what_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="advantages and log-probabilities"):
        UniformCorrect()(batch_of([[1, 0]]))
    for settings in ({"tau": 1.1}, {"smallest_q": 0.0}):
        with pytest.raises(ValueError, match="tau"):
            UniformCorrect(**settings)

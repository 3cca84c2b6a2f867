"""Risk-sensitive GRPO: an exponential utility of the reward (arXiv 2509.24261).

Jiang et al. 2025, the authors' `risk_sensitive_adv.py`:

    A_i = (1 / beta) (exp(beta r_i) / mean_j exp(beta r_j) - 1)

Large beta seeks risk: in a group of few right responses these weigh up to G / beta, whereas right
responses of an easy group weigh next to nothing. beta -> 0 is r - mean r.

Traps. Rewards of -1 and +1 would double beta; those of 0 and 1 are used, as published, whatever the
base rewards are. The published snippet cannot run (a variable is never defined). In a group of one
it takes 0 for the mean utility; here the mean is the response's own, so the advantage is 0.
"""

from __future__ import annotations

import math

from torch import Tensor

from g2rl.exploration.signal import ESTIMATOR, Stateless
from g2rl.types import GroupBatch, Shaped


class RiskSensitive(Stateless):
    """Advantages of an exponential utility, on rewards of 0 and 1, used as they are.

    Args:
        beta: risk preference; above 0 seeks risk, below 0 avoids it, 0 is the plain mean. The
            authors recommend 2.
    """

    name = "risk_sensitive"
    level = ESTIMATOR
    needs: frozenset[str] = frozenset()

    def __init__(self, beta: float = 2.0) -> None:
        if not math.isfinite(beta):
            raise ValueError(f"exploration.beta must be a finite number, got {beta}")
        self.beta = beta

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Advantages of one batch."""
        advantages_PG = exponential_utility(batch.r01_PG.double(), self.beta)
        return Shaped(batch.rewards_PG, advantages_PG=advantages_PG.to(batch.rewards_PG.dtype))


def exponential_utility(rewards_PG: Tensor, beta: float) -> Tensor:
    """The advantage of the module, (P, G); any rewards, 0 in a uniform group."""
    # the limit of no preference
    if beta == 0:
        return rewards_PG - rewards_PG.mean(-1, keepdim=True)

    # the largest exponent is 0, so nothing overflows
    exponents_PG = beta * rewards_PG
    utilities_PG = (exponents_PG - exponents_PG.amax(-1, keepdim=True)).exp()
    return (utilities_PG / utilities_PG.mean(-1, keepdim=True) - 1) / beta

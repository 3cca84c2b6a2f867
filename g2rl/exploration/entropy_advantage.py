"""Entropy-based advantage: tokens of high entropy are reinforced more and punished less.

Cheng et al. 2025, "Reasoning with Exploration: An Entropy Perspective" (arXiv 2506.14758):

    A'_t = A_t + min(alpha H_t, |A_t| / kappa)

with the entropy H_t of the token's distribution, through which no gradient flows: this is no
entropy bonus. The shift is never negative and vanishes where A_t = 0. With kappa > 1 it cannot turn
the sign of an advantage.

Difference from the paper: H_t is that of the behaviour policy; at the first update of a batch this
is the policy that is being updated. The constants alpha = 0.4 (GRPO; 0.1 for PPO) and kappa = 2 are
those of the paper as far as we recall; no code of the authors was found.
"""

from __future__ import annotations

import torch

from g2rl.exploration.signal import Stateless
from g2rl.exploration.token_plan import TokenPlan, TokenView
from g2rl.types import GroupBatch, Shaped


class EntropyAdvantage(Stateless):
    """Entropy-based advantage as a signal: rewards stay as they are, the plan shifts advantages.

    Args:
        alpha: advantage a nat of entropy, >= 0.
        kappa: the shift is at most |A_t| / kappa; > 1.

    Raises:
        ValueError: a constant that cannot be.
    """

    name = "entropy_advantage"
    level = "loss"
    needs = frozenset({"logps", "token_entropy"})

    def __init__(self, alpha: float = 0.4, kappa: float = 2.0) -> None:
        # a negative alpha would punish exploration
        if alpha < 0:
            raise ValueError(f"exploration.alpha must be >= 0, got {alpha}")
        if kappa <= 1:
            raise ValueError(
                f"exploration.kappa must be > 1, else the shift may turn the sign of an advantage; "
                f"got {kappa}"
            )
        self.alpha, self.kappa = alpha, kappa

    def __call__(self, batch: GroupBatch) -> Shaped:
        return Shaped(rewards_PG=batch.rewards_PG)

    def tokens(self, view: TokenView) -> TokenPlan:
        """Shift the advantage of every token by its entropy."""
        # rounding may leave an entropy a little below 0
        entropy_T = view.entropy_T.clamp_min(0.0)

        # never more than a part of the advantage, so that its sign stays
        shift_T = torch.minimum(self.alpha * entropy_T, view.advantages_T.abs() / self.kappa)
        return TokenPlan(
            advantage_shift_T=shift_T, metrics={"entropy_advantage": float(shift_T.mean())}
        )

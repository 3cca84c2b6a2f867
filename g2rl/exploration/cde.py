"""CDE's actor bonus: curiosity as the policy's own surprise (arXiv 2509.09675).

Dai et al. 2025. With B_i the mean negative log-probability of the tokens of a response:

    r~_i = r_i + omega min(|r_i| / kappa, alpha B_i)

omega decays to 0 in `stairs` equal steps over `decay_steps` training steps. The paper's kappa is 3,
its alpha 1; a staircase was the best of its four schedules, and no decay was worse than any. Taken
from notes on the paper. Its critic bonus needs value heads, which this loop does not have.

Traps. The bound |r| / kappa depends on the convention: on rewards of 0 and 1 a wrong response gets
no bonus at all, on -1 and +1 it is paid for surprise like a right one. The paper says that the
bonus punishes confident errors, which needs a bonus on wrong responses, so -1 and +1 is the default
(`reward=01` is the other). kappa = 1 with alpha = 1 collapsed in the paper (50.6 to 8.7). Without
decay the bonus never ends: set `decay_steps` to the length of the run.
"""

from __future__ import annotations

import torch

from g2rl.exploration.signal import Stateless, missing_need, refuse_unknown
from g2rl.types import GroupBatch, Shaped

REWARDS = ("pm1", "01")


class CuriosityBonus(Stateless):
    """Rewards plus a bounded bonus for improbable responses.

    Args:
        omega: weight of the bonus in the first step, >= 0.
        kappa: the bonus is at most |r| / kappa, > 0.
        alpha: bonus per nat of mean negative log-probability, >= 0.
        decay_steps: training steps until the bonus is 0; None never decays.
        stairs: number of equal falls in these steps, >= 1.
        reward: "pm1" or "01", the base reward.
    """

    name = "cde"
    needs = frozenset({"logps"})

    def __init__(
        self,
        omega: float = 1.0,
        kappa: float = 3.0,
        alpha: float = 1.0,
        decay_steps: int | None = 50,
        stairs: int = 5,
        reward: str = "pm1",
    ) -> None:
        # numbers first, then choices
        if omega < 0 or kappa <= 0 or alpha < 0 or stairs < 1:
            raise ValueError(
                "exploration: need omega >= 0, kappa > 0, alpha >= 0 and stairs >= 1, got "
                f"{omega}, {kappa}, {alpha}, {stairs}"
            )
        if decay_steps is not None and decay_steps < 1:
            raise ValueError(f"exploration.decay_steps must be >= 1 or null, got {decay_steps}")
        refuse_unknown("reward", reward, REWARDS)
        self.omega, self.kappa, self.alpha = omega, kappa, alpha
        self.decay_steps, self.stairs, self.reward = decay_steps, stairs, reward

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Shape one batch.

        Returns:
            Rewards (P, G), the diagnostic curiosity (the bonus), and omega as a metric.

        Raises:
            ValueError: the batch carries no log-probabilities.
        """
        if batch.logp_mean_PG is None:
            raise missing_need(self.name, "log-probabilities")

        # the convention decides whether wrong responses can earn a bonus
        rewards_PG = batch.rewards_PG if self.reward == "pm1" else batch.r01_PG

        # a probability of 1 may be rounded above it, and must not become a negative bonus
        surprise_PG = (-batch.logp_mean_PG).clamp_min(0.0)

        # the bonus is bounded by a share of the reward
        omega = self.weight(batch.step)
        bonus_PG = torch.minimum(rewards_PG.abs() / self.kappa, self.alpha * surprise_PG)
        return Shaped(
            rewards_PG + omega * bonus_PG,
            diagnostics={"curiosity": omega * bonus_PG},
            metrics={"omega": omega},
        )

    def weight(self, step: int) -> float:
        """omega of a training step, counted from 1: falls in equal stairs, 0 at the end."""
        if self.decay_steps is None:
            return self.omega
        # nothing has fallen in the first step
        steps_done = max(step - 1, 0)
        fallen_stairs = min(steps_done * self.stairs // self.decay_steps, self.stairs)
        return self.omega * (1 - fallen_stairs / self.stairs)

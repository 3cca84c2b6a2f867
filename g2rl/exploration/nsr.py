"""Learning from wrong responses, from right ones, or from both unevenly (arXiv 2506.01347).

Zhu et al. 2025, "The Surprising Effectiveness of Negative Reinforcement":

    nsr       A = -1 for wrong responses; right ones take no part
    psr       A = +1 for right responses; wrong ones take no part
    weighted  A = weight for right responses, -1 for wrong ones (W-REINFORCE, weight 0.1)

There is no baseline and no spread, so a group counts by itself.

Traps. `nsr` and `psr` *remove* the other class: it is in no mean over tokens or responses. An
advantage of 0 would be another method, because it leaves the class in the divisor and so shrinks
the step. Nothing attracts a policy under `nsr`: watch `train/entropy` and `train/length`. So that
entropy is known of all responses, also those that take no part, all of them are scored.
"""

from __future__ import annotations

import torch

from g2rl.exploration.signal import ESTIMATOR, Stateless, refuse_unknown
from g2rl.types import GroupBatch, Shaped

MODES = ("nsr", "psr", "weighted")


class NegativeReinforcement(Stateless):
    """Advantages of NSR, PSR or W-REINFORCE by the verdict alone, used as they are.

    Args:
        mode: "nsr", "psr" or "weighted", see the module.
        weight: advantage of right responses under "weighted", >= 0; the paper's is 0.1.
    """

    name = "nsr"
    level = ESTIMATOR

    def __init__(self, mode: str = "nsr", weight: float = 0.1) -> None:
        refuse_unknown("mode", mode, MODES)
        if weight < 0:
            raise ValueError(f"exploration.weight must be >= 0, got {weight}")
        self.mode, self.weight = mode, weight

        # responses that take no part are not scored by the update
        removes_responses = mode != "weighted"
        self.needs = frozenset({"entropy"}) if removes_responses else frozenset()

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Advantages of one batch, and which responses take part."""
        # by the verdict alone
        right_weight = self.weight if self.mode == "weighted" else 1.0
        advantages_PG = torch.where(batch.correct_PG, right_weight, -1.0)

        # the other class takes no part
        keep_PG = None
        if self.mode == "nsr":
            keep_PG = ~batch.correct_PG
        elif self.mode == "psr":
            keep_PG = batch.correct_PG
        return Shaped(
            batch.rewards_PG,
            advantages_PG=advantages_PG.to(batch.rewards_PG.dtype),
            keep_PG=keep_PG,
        )

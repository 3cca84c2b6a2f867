"""A control: right responses weighed at random.

Methods that pay rare right responses redistribute credit among them. Does it matter *who* gets it?
This control redistributes by chance: the algorithm's advantages of right responses are multiplied
by weights w drawn from an exponential distribution and divided by their mean in the group, so that
the total credit stays, as under `exploration=uniqueness`. Wrong responses keep theirs. What a
method gains over this control comes from its notion of rarity; Cue-GRPO (arXiv 2608.03467) reports
such a control with random partitions.

Unless `exploration.seed` is set (``exploration.seed='${seed}'`` follows the run's), runs of all
seeds draw the same numbers. Which response gets which weight is by chance all the same, because the
responses of a group are drawn alike and independently, so that their order says nothing. What such
runs share is how unequal the numbers of a step are.
"""

from __future__ import annotations

import torch

from g2rl.exploration.signal import ADVANTAGE, Stateless, missing_need
from g2rl.exploration.uniqueness import with_mean_one
from g2rl.types import GroupBatch, Shaped

SMALLEST = 1e-9
"""Least weight, so that a mean can be divided by."""


class RandomWeights(Stateless):
    """Weighs advantages of right responses at random; the reward convention is the algorithm's.

    Args:
        strength: in [0, 1]; the weights are 1 - strength + strength w.
        seed: of the weights, which depend on it and on the training step alone.
    """

    name = "random_weights"
    level = ADVANTAGE
    needs = frozenset({"advantages"})

    def __init__(self, strength: float = 1.0, seed: int = 0) -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"exploration.strength must lie in [0, 1], got {strength}")
        self.strength, self.seed = strength, seed

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Weigh the advantages of one batch.

        Returns:
            Advantages (P, G), and the diagnostic random_weight.

        Raises:
            ValueError: the batch carries no advantages.
        """
        if batch.advantages_PG is None:
            raise missing_need(self.name, "advantages")

        # a function of (seed, step), so that a run that goes on draws the same
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + batch.step)
        uniform_PG = torch.rand(batch.correct_PG.shape, generator=generator, dtype=torch.float64)

        # exponential by inversion, then the mean 1 over right responses
        drawn_PG = (-torch.log1p(-uniform_PG)).clamp_min(SMALLEST)
        weights_PG = with_mean_one(drawn_PG, batch.correct_PG)

        # between even shares and chance alone
        weights_PG = 1 - self.strength + self.strength * weights_PG
        return Shaped(
            batch.rewards_PG,
            diagnostics={"random_weight": weights_PG},
            advantages_PG=batch.advantages_PG * weights_PG.to(batch.advantages_PG.dtype),
        )

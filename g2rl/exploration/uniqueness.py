"""Rewarding rare correct strategies: Cue-GRPO and uniqueness-aware RL.

Both weigh the algorithm's advantage A by the size of the cluster that a response is in:

    cue   arXiv 2608.03467: right responses only. w_i = |cluster of i|^-alpha, clusters counted
          among the right ones, divided by the mean of w over them: their total credit stays
    uarl  arXiv 2601.08763: every response. w_i = |cluster of i|^-alpha, clusters counted among all

Both are taken from notes on the papers, not from code. Of UARL it is not known whether weights are
normalised; here they are not. alpha is not known either.

Trap: a partition so fine that every response is alone makes all weights equal, and `cue` is then
plain GRPO. `explore/clusters` and `explore/largest_cluster` show the partition.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g2rl.exploration.partitions import partition_metrics
from g2rl.exploration.signal import ADVANTAGE, Stateless, missing_need, refuse_unknown
from g2rl.types import GroupBatch, Shaped

VARIANTS = ("cue", "uarl")


class Uniqueness(Stateless):
    """Weighs advantages by the rarity of the cluster; the reward convention is the algorithm's.

    Args:
        alpha: exponent >= 0; 0 changes nothing.
        variant: "cue" or "uarl", see the module.
    """

    name = "uniqueness"
    level = ADVANTAGE
    needs = frozenset({"advantages", "partition"})

    def __init__(self, alpha: float = 0.5, variant: str = "cue") -> None:
        if alpha < 0:
            raise ValueError(f"exploration.alpha must be >= 0, got {alpha}")
        refuse_unknown("variant", variant, VARIANTS)
        self.alpha, self.variant = alpha, variant

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Weigh the advantages of one batch.

        Returns:
            Advantages (P, G), the diagnostic rarity_weight, and metrics of the partition.

        Raises:
            ValueError: the batch carries no advantages or no partition.
        """
        if batch.advantages_PG is None or batch.partition_PG is None:
            raise missing_need(self.name, "advantages and a partition")

        # whose company counts
        counted_PG = torch.ones_like(batch.correct_PG)
        if self.variant == "cue":
            counted_PG = batch.correct_PG

        # rare clusters weigh more; under "cue" the credit of right responses stays in all
        weights_PG = rarity(batch.partition_PG, counted_PG, self.alpha)
        if self.variant == "cue":
            weights_PG = with_mean_one(weights_PG, batch.correct_PG)
        return Shaped(
            batch.rewards_PG,
            diagnostics={"rarity_weight": weights_PG},
            metrics=partition_metrics(batch.partition_PG),
            advantages_PG=batch.advantages_PG * weights_PG.to(batch.advantages_PG.dtype),
        )


def rarity(partition_PG: Tensor, counted_PG: Tensor, alpha: float) -> Tensor:
    """|cluster|^-alpha, with the counted members of the cluster; (P, G) float64.

    A response of which no counted one shares the cluster, itself included, has weight 1.
    """
    # counted members of the cluster; a cluster of none is taken as one of 1
    same_PGG = partition_PG.unsqueeze(-1) == partition_PG.unsqueeze(-2)
    sizes_PG = (same_PGG & counted_PG.unsqueeze(-2)).sum(-1).clamp(min=1)
    return sizes_PG.double().pow(-alpha)


def with_mean_one(weights_PG: Tensor, members_PG: Tensor) -> Tensor:
    """Weights divided by their mean over the members of each group; 1 for all others.

    Args:
        weights_PG: above 0 for members.
        members_PG: boolean.

    Returns:
        (P, G), of the mean 1 over members.
    """
    inside_PG = torch.where(members_PG, weights_PG, 0.0)
    counts_P1 = members_PG.sum(-1, keepdim=True)
    mean_P1 = inside_PG.sum(-1, keepdim=True) / counts_P1.clamp(min=1)

    # a group without members is divided by 1
    scaled_PG = weights_PG / torch.where(counts_P1 > 0, mean_P1, 1.0)
    return torch.where(members_PG, scaled_PG, 1.0)

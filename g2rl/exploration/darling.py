"""DARLING: quality times diversity (arXiv 2509.02534).

Li et al. 2025. With the responses of a group divided into clusters and rewards of 0 and 1:

    d_i = max((G - |cluster of i|) / (G - 1), floor)
    r~_i = r_i d_i
    A_i = r~_i - mean_j r~_j        without division by the spread

A right response is paid by the share of its group that does something else.

Deviation: the paper's clusters are joined by a fine-tuned classifier; here they come from the
partitioner of `partition=...`, of which `embedding` is nearest.

Traps. Single linkage merges chains. Wrong responses are clustered too, and so count as "something
else" (`among=correct` leaves them out, the authors' unused variant). If the whole group is one
cluster, every reward is times `floor`. Rewards of 0 and 1 are used whatever the base rewards are.
The published runs do not divide by the spread, so the default does not either, whatever
`algorithm.advantage_scale` says; `spread: null` leaves it to the algorithm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g2rl.exploration.partitions import partition_metrics
from g2rl.exploration.signal import Stateless, missing_need, refuse_unknown
from g2rl.formulas.advantages import SCALES
from g2rl.types import GroupBatch, Shaped

AMONG = ("all", "correct")


class Darling(Stateless):
    """Rewards of 0 and 1 times the share of the group in other clusters.

    Args:
        floor: least factor, in [0, 1]; the authors' is 0.1.
        among: whether clusters are counted among "all" responses of a group or its "correct" ones.
        spread: "none" or "std", whether advantages are divided by the spread of the group; None
            leaves it to the algorithm.
    """

    name = "darling"
    needs = frozenset({"partition"})

    def __init__(self, floor: float = 0.1, among: str = "all", spread: str | None = "none") -> None:
        if not 0 <= floor <= 1:
            raise ValueError(f"exploration.floor must lie in [0, 1], got {floor}")
        # no spread of its own leaves it to the algorithm
        refuse_unknown("among", among, AMONG)
        if spread is not None:
            refuse_unknown("spread", spread, SCALES)
        self.floor, self.among, self.spread = floor, among, spread

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Shape one batch.

        Returns:
            Rewards (P, G), the diagnostic diversity, and metrics of the partition.

        Raises:
            ValueError: the batch carries no partition.
        """
        if batch.partition_PG is None:
            raise missing_need(self.name, "a partition")

        # who counts as "something else"
        counted_PG = torch.ones_like(batch.correct_PG)
        if self.among == "correct":
            counted_PG = batch.correct_PG

        # quality times diversity
        diversity_PG = diversity(batch.partition_PG, counted_PG).clamp_min(self.floor)
        return Shaped(
            batch.r01_PG * diversity_PG.to(batch.rewards_PG.dtype),
            diagnostics={"diversity": diversity_PG},
            metrics=partition_metrics(batch.partition_PG),
            advantage_scale=self.spread,
        )


def diversity(partition_PG: Tensor, counted_PG: Tensor) -> Tensor:
    """Share of the other counted responses that are in other clusters, (P, G) float64.

    Args:
        partition_PG: cluster numbers.
        counted_PG: boolean, which responses count.

    Returns:
        0 for a response without counted others.
    """
    # the others that count, and those of them that are elsewhere
    own_GG = torch.eye(partition_PG.shape[-1], dtype=torch.bool)
    others_PGG = counted_PG.unsqueeze(-2) & ~own_GG
    differs_PGG = partition_PG.unsqueeze(-1) != partition_PG.unsqueeze(-2)

    # a response without others is divided by 1
    elsewhere_PG = (others_PGG & differs_PGG).sum(-1).double()
    return elsewhere_PG / others_PGG.sum(-1).clamp(min=1)

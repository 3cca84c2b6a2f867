"""Poly-EPO: sets of responses are scored, and each response by the sets that it is in.

Orney, Ibn Hamid et al. 2026 (arXiv 2604.17654), after polychromic RL (2509.25424). With g a set of
`set_size` of the G responses, r in {0, 1}, and responses divided into clusters:

    f(g) = mean_{i in g} r_i * (clusters in g) / |g|
    A_i = mean of f over the sets with i in them - mean of f over all sets

The published runs list all 70 sets of 4 out of 8. Here both means are in closed form
(`set_scores`), exact for every G. Taken from notes on the paper; whether advantages are divided by
a spread there is not known, and they are not here. The paper's clusters are judged by a language
model; here they come from `partition=...`.

Trap: a cluster of wrong responses counts as a cluster, so a wrong response that is unlike all
others can have an advantage above 0 beside right ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g2rl.exploration.partitions import partition_metrics
from g2rl.exploration.passk import choose
from g2rl.exploration.signal import ESTIMATOR, Stateless, missing_need
from g2rl.types import GroupBatch, Shaped


class PolyEPO(Stateless):
    """Marginal set advantages, on rewards of 0 and 1, used as they are.

    Args:
        set_size: responses in a set, >= 1; groups need at least as many.
    """

    name = "poly_epo"
    level = ESTIMATOR
    needs = frozenset({"partition"})

    def __init__(self, set_size: int = 4) -> None:
        if set_size < 1:
            raise ValueError(f"exploration.set_size must be >= 1, got {set_size}")
        self.set_size = self.smallest_group = set_size

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Advantages of one batch, with metrics of the partition and the mean score of a set.

        Raises:
            ValueError: the batch carries no partition, or groups are smaller than a set.
        """
        if batch.partition_PG is None:
            raise missing_need(self.name, "a partition")
        group_size = batch.rewards_PG.shape[-1]
        if group_size < self.set_size:
            raise ValueError(
                f"exploration=poly_epo with set_size={self.set_size} needs groups of at least as "
                f"many, got {group_size}"
            )

        # how much better the sets of a response are than all sets
        with_each_PG, overall_P = set_scores(batch.r01_PG, batch.partition_PG, self.set_size)
        advantages_PG = with_each_PG - overall_P.unsqueeze(-1)
        return Shaped(
            batch.rewards_PG,
            metrics={**partition_metrics(batch.partition_PG), "set_score": overall_P.mean().item()},
            advantages_PG=advantages_PG.to(batch.rewards_PG.dtype),
        )


def set_scores(r01_PG: Tensor, partition_PG: Tensor, set_size: int) -> tuple[Tensor, Tensor]:
    """Mean of f over the sets that hold each response, and over all sets.

    f is a sum over pairs of a member a and a cluster: (1 / s^2) r_a [cluster is in g]. Given that i
    and a are in g, a cluster of n_c others is missed with probability
    C(n - m - n_c, s - m) / C(n - m, s - m), m being 1 for a = i and 2 otherwise. So

        mean over g with i = (1 / s^2) sum_a r_a P(a in g | i in g) E[clusters in g | i, a in g]

    and the mean over all sets is the mean of these over i, because all i are in equally many sets.

    Args:
        r01_PG: rewards of 0 and 1.
        partition_PG: cluster numbers.
        set_size: s, 1 to G.

    Returns:
        (P, G) and (P,), both float64.
    """
    # the cluster of each response, and its size
    n = r01_PG.shape[-1]
    same_PGG = partition_PG.unsqueeze(-1) == partition_PG.unsqueeze(-2)
    sizes_PG = same_PGG.sum(-1)

    # chance that sets with one or two given members outside a cluster of a size miss it
    missed_one = _chances_to_miss(n, set_size, 1)
    missed_two = _chances_to_miss(n, set_size, 2)

    # expected clusters in a set that holds i, and in one that holds i and a; 1 / size sums to 1
    # over the members of a cluster, so sums over responses are sums over clusters
    sure_PG = 1.0 / sizes_PG.double()
    hit_one_PG = sure_PG * (1 - missed_one[sizes_PG])
    hit_two_PG = sure_PG * (1 - missed_two[sizes_PG])
    with_one_PG = _expected_clusters(same_PGG, hit_one_PG, sure_PG)
    holds_PGGG = same_PGG.unsqueeze(-2) | same_PGG.unsqueeze(-3)
    with_two_PGG = _expected_clusters(holds_PGGG, hit_two_PG.unsqueeze(1), sure_PG.unsqueeze(1))

    # r_a weighs each, a = i for sure and every other with probability (s - 1) / (n - 1)
    own_GG = torch.eye(n, dtype=torch.float64)
    chance = (set_size - 1) / max(n - 1, 1)
    rewards_P1G = r01_PG.double().unsqueeze(-2)
    others_PG = (rewards_P1G * with_two_PGG * (1 - own_GG)).sum(-1) * chance
    with_each_PG = (r01_PG.double() * with_one_PG + others_PG) / set_size**2
    return with_each_PG, with_each_PG.mean(-1)


def _chances_to_miss(n: int, set_size: int, given: int) -> Tensor:
    """Chance that a set with `given` members outside a cluster misses it, for sizes 0 to n.

    All 0 where no set has so many members.
    """
    # of the sets with the given members, those whose others avoid the cluster
    all_sets = choose(n - given, set_size - given)
    chances: list[float] = []
    for size in range(n + 1):
        missing_sets = choose(n - given - size, set_size - given)
        chances.append(missing_sets / all_sets if all_sets else 0.0)
    return torch.tensor(chances, dtype=torch.float64)


def _expected_clusters(holds: Tensor, hit: Tensor, sure: Tensor) -> Tensor:
    """Expected number of clusters in a set, as a sum over responses (the last axis).

    Args:
        holds: boolean, whether a given member shares the cluster of the response.
        hit: 1 / size times the chance that the rest of the set hits the cluster.
        sure: 1 / size.
    """
    # clusters that a given member is in are there for sure
    per_response = torch.where(holds, sure.unsqueeze(-2), hit.unsqueeze(-2))
    return per_response.sum(-1)

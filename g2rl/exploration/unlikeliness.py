"""The unlikeliness reward: among right responses, the improbable are paid more (arXiv 2506.02355).

He, Fried and Welleck 2025. With rank_i in 0 .. G-1 the place of a response among all of its group
by log-probability, least likely first, and rewards of 0 and 1:

    r~_i = r_i (1 - beta rank_i / G)

Paper and code differ: the paper ranks by the probability of the response, the code by the mean
log-probability of its tokens, under which long responses are not improbable by their length. The
code's ranking is the default, because it made the published results; `length_normalised=false` is
the paper's.

Traps. The rank is taken over the whole group, wrong responses included. On rewards of -1 and +1 a
likely wrong response would be punished *less*, so 0 and 1 are used whatever the base rewards are.
A group in which all are right gets a signal too: its spread is beta at most, and dividing by it
makes advantages of order one. The code breaks ties by order; here they share their mean rank.
"""

from __future__ import annotations

from torch import Tensor

from g2rl.exploration.signal import Stateless, missing_need
from g2rl.formulas.tensors import midrank
from g2rl.types import GroupBatch, Shaped


class Unlikeliness(Stateless):
    """Rewards of 0 and 1, of which likely right responses lose up to beta.

    Args:
        beta: in [0, 1]; the authors' is 0.25.
        length_normalised: rank by the mean log-probability of a token, instead of the sum.
    """

    name = "unlikeliness"
    needs = frozenset({"logps"})

    def __init__(self, beta: float = 0.25, length_normalised: bool = True) -> None:
        if not 0 <= beta <= 1:
            raise ValueError(f"exploration.beta must lie in [0, 1], got {beta}")
        self.beta, self.length_normalised = beta, length_normalised

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Shape one batch.

        Returns:
            Rewards (P, G), and the diagnostic rank, 0 for the least likely of a group.

        Raises:
            ValueError: the batch carries no log-probabilities.
        """
        # the code's ranking, or the paper's
        logps_PG = batch.logp_mean_PG if self.length_normalised else batch.logp_sum_PG
        if logps_PG is None:
            raise missing_need(self.name, "log-probabilities")

        # a wrong response has reward 0 whatever its rank
        ranks_PG = ranks(logps_PG)
        group_size = batch.rewards_PG.shape[-1]
        factors_PG = 1 - self.beta * ranks_PG / group_size
        return Shaped(batch.r01_PG * factors_PG, diagnostics={"rank": ranks_PG})


def ranks(values_PG: Tensor) -> Tensor:
    """Place of each value in its group, 0 for the smallest; ties share their mean place."""
    return midrank(values_PG) * (values_PG.shape[-1] - 1)

"""UCPO: credit spread evenly over right responses, whatever their probability (arXiv 2605.00365).

Lochab, Li and Zhang 2026. The policy gradient pushes a response in proportion to its probability,
so equal advantages favour what is likely. With m >= 2 right responses in a group and q their
softmax over log-probabilities:

    u_i = (1 - tau) / m + tau (1 / q_i) / sum_j (1 / q_j),     A_i = A_i m u_i

for right responses; their total credit stays, and wrong ones are unchanged. tau = 0.2.

Paper and code differ: the paper describes a penalty on non-uniformity, the published script runs
the redistribution above (the authors' `compute_dgrpo_advantage_outcome_invq_l`), with q from the
*mean* log-probability of a token. That softmax is almost flat (means differ by hundredths of nats),
so weights hardly leave 1. `length_normalised=false` takes the log-probability of the whole
response, under which the method is far stronger. Both bound q from below by `smallest_q`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g2rl.exploration.signal import ADVANTAGE, Stateless, missing_need
from g2rl.types import GroupBatch, Shaped


class UniformCorrect(Stateless):
    """Redistributes advantages among right responses; the reward convention is the algorithm's.

    Args:
        tau: 0 changes nothing, 1 gives credit in proportion to 1 / q; the authors' is 0.2.
        length_normalised: take mean log-probabilities of tokens, as the published runs did.
        smallest_q: least q, in (0, 1); the authors' is 1e-6.
    """

    name = "ucpo"
    level = ADVANTAGE
    needs = frozenset({"advantages", "logps"})

    def __init__(
        self, tau: float = 0.2, length_normalised: bool = True, smallest_q: float = 1e-6
    ) -> None:
        # with q of 0 one response would take all the credit
        if not 0 <= tau <= 1 or not 0 < smallest_q < 1:
            raise ValueError(
                "exploration: need tau in [0, 1] and smallest_q in (0, 1), "
                f"got {tau} and {smallest_q}"
            )
        self.tau, self.length_normalised, self.smallest_q = tau, length_normalised, smallest_q

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Redistribute the advantages of one batch.

        Returns:
            Advantages (P, G), and the diagnostic uniform_weight (m u, of mean 1 over right ones).

        Raises:
            ValueError: the batch carries no advantages or no log-probabilities.
        """
        logps_PG = batch.logp_mean_PG if self.length_normalised else batch.logp_sum_PG
        if batch.advantages_PG is None or logps_PG is None:
            raise missing_need(self.name, "advantages and log-probabilities")

        # of mean 1 over right responses, so that their total credit stays
        weights_PG = uniform_weights(logps_PG, batch.correct_PG, self.tau, self.smallest_q)
        return Shaped(
            batch.rewards_PG,
            diagnostics={"uniform_weight": weights_PG},
            advantages_PG=batch.advantages_PG * weights_PG.to(batch.advantages_PG.dtype),
        )


def uniform_weights(
    logps_PG: Tensor, correct_PG: Tensor, tau: float, smallest_q: float = 1e-6
) -> Tensor:
    """m u_i of the module for right responses, 1 for wrong ones and for a single right one.

    Args:
        logps_PG: log-probabilities of responses, or their means over tokens, nats.
        correct_PG: boolean verdicts.
        tau: strength in [0, 1].
        smallest_q: least q.

    Returns:
        (P, G) float64, of the mean 1 over the right responses of a group.
    """
    # q over the right ones; a group without any is left alone below
    masked_PG = logps_PG.double().masked_fill(~correct_PG, -torch.inf)
    q_PG = masked_PG.softmax(-1).nan_to_num(0.0).clamp_min(smallest_q)

    # shares in proportion to 1 / q
    inverse_PG = torch.where(correct_PG, 1 / q_PG, 0.0)
    total_P1 = inverse_PG.sum(-1, keepdim=True)
    target_PG = inverse_PG / torch.where(total_P1 > 0, total_P1, 1.0)

    # between even shares and these; one right response has nobody to share with
    counts_P1 = correct_PG.sum(-1, keepdim=True)
    weights_PG = (1 - tau) + tau * counts_P1 * target_PG
    return torch.where(correct_PG & (counts_P1 > 1), weights_PG, 1.0)

"""KL-Cov: the tokens whose covariance would lower the entropy most are held where they are.

Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models"
(arXiv 2505.22617), as in the authors' repository and in verl's `compute_policy_loss_kl_cov`. With

    cov_t = (A_t - mean A) (log pi_old(y_t) - mean log pi_old)

over all T tokens of the mini-batch, the max(1, floor(share T)) tokens of largest cov_t cost

    -A_t rho_t + coefficient |log rho_t|        and all others  -A_t rho_t.

There is no clipping anywhere.

Differences from the authors' code:

- means and ranks run over the mini-batch, theirs over the micro-batch of one process, so that their
  results depend on its size;
- the log-probabilities that select are those of the behaviour policy, theirs those of the policy
  that is being updated;
- |log rho| has no slope up to 1e-4 nats, which is rounding.

At the first update of a batch log rho is 0 and |log rho| has slope 0, so with one update a batch
(optimizer.mini_batches=1, epochs=1) KL-Cov is the unclipped policy gradient and nothing else.
verl's default share is 0.0002; the authors' script for 7B models says 0.2 percent, which is 0.002.
"""

from __future__ import annotations

import torch

from g2rl.exploration.signal import Stateless
from g2rl.exploration.token_plan import TokenPlan, TokenView, token_covariance, top_tokens
from g2rl.types import GroupBatch, Shaped


class KLCov(Stateless):
    """KL-Cov as a signal: rewards stay as they are, the plan anchors tokens.

    Args:
        share: of all tokens that are anchored, in (0, 1].
        coefficient: kappa, strength of the penalty, >= 0.
        unclipped: whether the ratio is not clipped, as in the recipe; false keeps the bounds of the
            algorithm, under which it is another method.

    Raises:
        ValueError: a share or a coefficient that cannot be.
    """

    name = "kl_cov"
    level = "loss"
    needs = frozenset({"logps", "token_entropy"})

    def __init__(
        self, share: float = 2e-3, coefficient: float = 1.0, unclipped: bool = True
    ) -> None:
        # a share of 0 would still anchor one token
        if not 0 < share <= 1:
            raise ValueError(f"exploration.share must lie in (0, 1], got {share}")

        # a negative penalty would drive tokens away from the policy that sampled
        if coefficient < 0:
            raise ValueError(f"exploration.coefficient must be >= 0, got {coefficient}")
        self.share, self.coefficient, self.unclipped = share, coefficient, unclipped

    def __call__(self, batch: GroupBatch) -> Shaped:
        return Shaped(rewards_PG=batch.rewards_PG)

    def tokens(self, view: TokenView) -> TokenPlan:
        """Anchor the tokens of largest covariance to the policy that sampled."""
        # the tokens that would lower the entropy most, at least one
        covariance_T = token_covariance(view.advantages_T, view.old_logps_T)
        count = max(1, int(self.share * view.token_count))
        is_anchored_T = top_tokens(covariance_T, count)

        # the recipe clips no token
        unbounded_T = None
        if self.unclipped:
            unbounded_T = torch.full((view.token_count,), torch.inf)

        # an anchor that is not named is the policy that sampled: log rho = 0
        return TokenPlan(
            clip_low_T=unbounded_T,
            clip_high_T=unbounded_T,
            anchor_weight_T=self.coefficient * is_anchored_T.float(),
            anchor_kind="abs",
            metrics={
                "kl_cov_anchored": count / view.token_count,
                "kl_cov_smallest": float(covariance_T[is_anchored_T].min()),
            },
        )

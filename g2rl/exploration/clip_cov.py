"""Clip-Cov: some of the tokens whose covariance would lower the entropy most teach nothing.

Cui et al. 2025, "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models"
(arXiv 2505.22617), as in the authors' repository and in verl's `compute_policy_loss_clip_cov`. With

    cov_t = (A_t - mean A) (log pi_old(y_t) - mean log pi_old)

over all T tokens of the mini-batch, max(1, floor(share T)) of the tokens with cov_low < cov_t <
cov_high are drawn at random, and their surrogate is multiplied by 0. The loss is still divided by
all tokens.

Differences from the authors' code:

- the means run over the mini-batch, theirs over the micro-batch of one process, so that their
  results depend on its size;
- the log-probabilities are those of the behaviour policy, theirs those of the policy that is being
  updated. Both are the same at the first update of a batch;
- a token that the ratio has already clipped may be drawn, theirs may not. With the bounds below a
  token is clipped only when its probability has doubled.

The bounds cov_low and cov_high are in units of advantage times nats. On a small policy whose tokens
are nearly certain no token may reach them: see the metric clip_cov_candidates.
"""

from __future__ import annotations

import torch

from g2rl.exploration.signal import Stateless
from g2rl.exploration.token_plan import TokenPlan, TokenView, token_covariance
from g2rl.types import GroupBatch, Shaped


class ClipCov(Stateless):
    """Clip-Cov as a signal: rewards stay as they are, the plan leaves tokens out.

    Args:
        share: of all tokens that are left out at most, in (0, 1].
        cov_low, cov_high: the open interval that the covariance of such a token lies in.
        clip_low, clip_high: ratio bounds of all tokens in place of the algorithm's. The authors'
            scripts set both to 1, which all but switches clipping off; None keeps those of the
            algorithm, under which it is another method.

    Raises:
        ValueError: a share, an interval or a bound that cannot be.
    """

    name = "clip_cov"
    level = "loss"
    needs = frozenset({"logps", "token_entropy"})

    def __init__(
        self,
        share: float = 2e-4,
        cov_low: float = 1.0,
        cov_high: float = 5.0,
        clip_low: float | None = 1.0,
        clip_high: float | None = 1.0,
    ) -> None:
        # which tokens may be left out
        if not 0 < share <= 1:
            raise ValueError(f"exploration.share must lie in (0, 1], got {share}")
        if not cov_low < cov_high:
            raise ValueError(
                f"exploration.cov_low must be below cov_high, got {cov_low} and {cov_high}"
            )

        # the ratio bounds of all tokens
        for name, bound in (("clip_low", clip_low), ("clip_high", clip_high)):
            if bound is not None and bound < 0:
                raise ValueError(f"exploration.{name} must be >= 0 or null, got {bound}")
        self.share, self.cov_low, self.cov_high = share, cov_low, cov_high
        self.clip_low, self.clip_high = clip_low, clip_high

    def __call__(self, batch: GroupBatch) -> Shaped:
        return Shaped(rewards_PG=batch.rewards_PG)

    def tokens(self, view: TokenView) -> TokenPlan:
        """Draw the tokens that are left out of one update."""
        # tokens that would lower the entropy much; beyond cov_high the authors take none
        covariance_T = token_covariance(view.advantages_T, view.old_logps_T)
        is_candidate_T = (covariance_T > self.cov_low) & (covariance_T < self.cov_high)
        candidates = is_candidate_T.nonzero().flatten()

        # as many as the share allows, at random
        count = max(1, int(self.share * view.token_count))
        order = torch.from_numpy(view.generator().permutation(len(candidates)))
        left_out = candidates[order[:count]]
        weight_T = torch.ones(view.token_count)
        weight_T[left_out] = 0.0

        # the ratio bounds of the recipe
        bounds_T = []
        for bound in (self.clip_low, self.clip_high):
            bounds_T.append(None if bound is None else torch.full_like(weight_T, bound))

        # left out of the surrogate, but still counted by what the loss is divided by
        return TokenPlan(
            weight_T=weight_T,
            clip_low_T=bounds_T[0],
            clip_high_T=bounds_T[1],
            metrics={
                "clip_cov_candidates": len(candidates) / view.token_count,
                "clip_cov_left_out": len(left_out) / view.token_count,
            },
        )

"""80/20: only the tokens of highest entropy teach, the "forking tokens".

Wang et al. 2025, "Beyond the 80/20 Rule: High-Entropy Minority Tokens Drive Effective Reinforcement
Learning for LLM Reasoning" (arXiv 2506.01939). Of the T tokens of the mini-batch those of highest
entropy keep their surrogate, all others have the weight 0:

    topk        the ceil(share T) tokens of highest entropy           the authors' code
    threshold   every token from the (1 - share)-quantile of all on   the paper's Eq. 6, and
                                                                      TRL's top_entropy_quantile

The two differ where entropies tie. The loss is then the mean over the *kept* tokens (the authors'
mask enters the mean, so that a kept token weighs 1 / share as much as before), or with
renormalise=false still divided by all (TRL).

Differences from the authors' code: entropies are those of the behaviour policy and ranked over the
mini-batch; theirs are those of the policy that is being updated, ranked over the micro-batch. The
paper claims a gain from 14B parameters on and none at 8B; a tiny policy is a control.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from g2rl.exploration.signal import Stateless
from g2rl.exploration.token_plan import RESOLUTION, TokenPlan, TokenView, top_tokens
from g2rl.types import GroupBatch, Shaped

RULES = ("topk", "threshold")
SCOPES = ("batch", "response")


class ForkingTokens(Stateless):
    """80/20 as a signal: rewards stay as they are, the plan keeps some tokens.

    Args:
        share: of the tokens that are kept, in (0, 1].
        rule: "topk" or "threshold", see the module.
        scope: among which tokens they are ranked: those of the whole "batch" (the mini-batch), or
            of each "response".
        renormalise: whether the loss is divided by the kept tokens only.

    Raises:
        ValueError: a setting that cannot be.
    """

    name = "forking_tokens"
    level = "loss"
    needs = frozenset({"logps", "token_entropy"})

    def __init__(
        self,
        share: float = 0.2,
        rule: str = "topk",
        scope: str = "batch",
        renormalise: bool = True,
    ) -> None:
        # at least one token has to be kept
        if not 0 < share <= 1:
            raise ValueError(f"exploration.share must lie in (0, 1], got {share}")
        if rule not in RULES:
            raise ValueError(f"exploration.rule must be one of {RULES}, got {rule!r}")
        if scope not in SCOPES:
            raise ValueError(f"exploration.scope must be one of {SCOPES}, got {scope!r}")
        self.share, self.rule, self.scope, self.renormalise = share, rule, scope, renormalise

    def __call__(self, batch: GroupBatch) -> Shaped:
        return Shaped(rewards_PG=batch.rewards_PG)

    def tokens(self, view: TokenView) -> TokenPlan:
        """Keep the tokens of highest entropy."""
        # ranked among all tokens, or response by response
        if self.scope == "batch":
            is_kept_T = self._highest(view.entropy_T)
        else:
            lengths = torch.bincount(view.segments_T).tolist()
            kept_of_responses = [self._highest(part_T) for part_T in view.entropy_T.split(lengths)]
            is_kept_T = torch.cat(kept_of_responses)

        # what it took to be kept: a drop over the steps shows that forks close
        lowest = float(view.entropy_T[is_kept_T].min())
        return TokenPlan(
            weight_T=is_kept_T.float(),
            renormalise=self.renormalise,
            metrics={"forking_kept": float(is_kept_T.float().mean()), "forking_entropy": lowest},
        )

    def _highest(self, entropy_T: Tensor) -> Tensor:
        """Which of some tokens have the highest entropy, (T,) boolean."""
        if self.rule == "topk":
            # a product such as 0.2 * 15 may lie a little above the whole number
            count = math.ceil(self.share * entropy_T.numel() - 1e-9)
            return top_tokens(entropy_T, count)

        # a response without tokens has no quantile
        if entropy_T.numel() == 0:
            return torch.zeros(0, dtype=torch.bool)
        # ties with the quantile are kept, also those that rounding has moved a little below it
        threshold = float(np.quantile(entropy_T.double().numpy(), 1 - self.share))
        return entropy_T >= threshold - RESOLUTION / 2

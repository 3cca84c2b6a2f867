"""The reference policy of a model with LoRA: the same weights, with the adapters off.

Without LoRA the reference policy is a frozen copy of the policy.
"""

from __future__ import annotations

from typing import Unpack

import torch
from torch import nn

from g2rl.policy.batching import MicroBatch
from g2rl.policy.lm_head import HeadOutput
from g2rl.policy.lora import adapters_off
from g2rl.policy.policy import ForwardOptions, Policy


class AdaptersOff(nn.Module):
    """Scores responses under a policy as it was before its adapters were trained.

    It needs no weights of its own and records no gradients; it satisfies
    `g2rl.policy.policy.Scorable`. Since the base of a policy with LoRA is frozen, its scores never
    change.

    Args:
        policy: a policy with LoRA. Every forward is a call of this policy, so that its hooks
            (gathering divided weights) run.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    @property
    def device(self) -> torch.device:
        """The device of the policy's computation."""
        return self.policy.device

    @property
    def shares_prefixes(self) -> bool:
        """Whether the policy takes packed micro-batches."""
        return self.policy.shares_prefixes

    @torch.no_grad()
    def forward(
        self, batch: MicroBatch, temperature: float = 1.0, **options: Unpack[ForwardOptions]
    ) -> HeadOutput:
        """Score the response tokens of a micro-batch, see `Policy.forward`."""
        with adapters_off(self.policy.model):
            return self.policy(batch, temperature, **options)

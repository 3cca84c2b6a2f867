"""The reference policy of a model with LoRA: the same weights with the adapters off, not a second
copy."""

from __future__ import annotations

import torch
from torch import nn

from g2rl.policy.batching import MicroBatch
from g2rl.policy.lm_head import HeadOutput, Objective
from g2rl.policy.lora import adapters_off
from g2rl.policy.policy import Policy


class AdaptersOff(nn.Module):
    """A policy as it was before its adapters were trained, without gradients and without memory of
    its own.

    Args:
        policy: a policy with LoRA. Its base is frozen, so that this view never changes. Calls go
            through the policy, so that hooks on it (sharding) are met.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    @property
    def device(self) -> torch.device:
        """The device of the policy."""
        return self.policy.device

    @torch.no_grad()
    def forward(
        self,
        batch: MicroBatch,
        temperature: float = 1.0,
        features: bool = False,
        feature_temperature: float | None = None,
        objective: Objective | None = None,
    ) -> HeadOutput:
        """See `Policy.forward`."""
        with adapters_off(self.policy.model):
            return self.policy(batch, temperature, features, feature_temperature, objective)

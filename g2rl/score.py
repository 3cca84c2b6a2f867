"""Score rollouts under a frozen policy: log-probabilities, entropies and what a signal asks for.

One no-grad pass in micro-batches of similar length; nothing is computed twice, nothing for padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from g2rl.batching import Sequences, make_micro_batch, plan_micro_batches
from g2rl.policy import Policy


@dataclass(slots=True)
class Scores:
    """N responses under one policy; token lists follow the order of the responses."""

    logps: list[Tensor]
    """N tensors (T_n,), log-probabilities at the sampling temperature."""
    entropies: list[Tensor]
    """N tensors (T_n,), token entropies in nats."""
    features_ND: Tensor | None = None
    """Gradient features on the CPU, float32."""

    @property
    def mean_entropy_N(self) -> Tensor:
        """Mean token entropy of each response; 0 for an empty one."""
        return torch.stack([e.mean() if e.numel() else e.new_zeros(()) for e in self.entropies])


@torch.no_grad()
def score(
    policy: Policy,
    sequences: Sequences,
    *,
    temperature: float,
    token_budget: int,
    features: bool = False,
    feature_temperature: float | None = None,
) -> Scores:
    """Log-probabilities, entropies and (if asked) gradient features of every response.

    Args:
        policy: behaviour policy (or the reference).
        temperature: sampling temperature of the responses.
        token_budget: padded tokens of one micro-batch.
        features: also compute Phi, at `feature_temperature` (default: `temperature`).
    """
    was_training = policy.training
    policy.eval()
    count = len(sequences)
    logps: list[Tensor] = [torch.empty(0)] * count
    entropies: list[Tensor] = [torch.empty(0)] * count
    rows_of_features: list[Tensor | None] = [None] * count
    for rows in plan_micro_batches(sequences, range(count), token_budget):
        batch = make_micro_batch(sequences, rows, policy.device)
        output = policy(batch, temperature, features, feature_temperature)
        sizes = [len(sequences.responses[n]) for n in rows]
        for i, (n, logp, entropy) in enumerate(
            zip(rows, output.logps_T.split(sizes), output.entropy_T.split(sizes), strict=True)
        ):
            logps[n], entropies[n] = logp.cpu(), entropy.cpu()
            if output.features_ND is not None:
                rows_of_features[n] = output.features_ND[i].float().cpu()
    policy.train(was_training)
    stacked = torch.stack([row for row in rows_of_features if row is not None]) if features else None
    return Scores(logps, entropies, stacked)

"""A control: right responses paid for agreement with the others, the opposite of novelty.

After GAR (Zheng et al. 2026, "Gradients Know What Outcomes Don't"), which pays agreement with an
expert's gradient; here the anchor is the centroid of the group's own right responses, so no expert
is needed. With v the unit vectors and r in {0, 1}:

    a_i = cos(v_i, mean of v over the right responses)
    r~_i = r_i (1 + beta max(0, a_i - mean of a over the right responses))

GAR's beta is 0.5. If novelty helps exploration, this must hurt it.

Deviations from GAR: its vectors are means of (dloss/dh) * h over a span of tokens; here they are
the gradient features Phi, or embeddings of the texts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g2rl.exploration.signal import Stateless, missing_need, refuse_unknown
from g2rl.formulas.tensors import unit_rows
from g2rl.types import GroupBatch, Shaped

FEATURES = {"phi": "features", "embeddings": "embeddings"}
"""Choices of the setting, and what each needs."""


class Agreement(Stateless):
    """Rewards of 0 and 1; right responses near the centroid of the right ones get more.

    Args:
        beta: strength >= 0.
        features: "phi" or "embeddings".
    """

    name = "agreement"

    def __init__(self, beta: float = 0.5, features: str = "phi") -> None:
        if beta < 0:
            raise ValueError(f"exploration.beta must be >= 0, got {beta}")
        # the vectors decide what a batch has to carry
        refuse_unknown("features", features, tuple(FEATURES))
        self.beta, self.features = beta, features
        self.needs = frozenset({FEATURES[features]})

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Shape one batch.

        Returns:
            Rewards (P, G), and the diagnostic agreement (a).

        Raises:
            ValueError: the batch carries no such vectors.
        """
        # Phi, or what the encoder says
        vectors_PGD = batch.features_PGD
        if self.features == "embeddings":
            vectors_PGD = batch.embeddings_PGE
        if vectors_PGD is None:
            raise missing_need(self.name, FEATURES[self.features])

        # more for what agrees more than the right responses do on average
        agreement_PG = centroid_agreement(vectors_PGD, batch.correct_PG)
        mean_P1 = mean_of_members(agreement_PG, batch.correct_PG)
        bonus_PG = self.beta * (agreement_PG - mean_P1).clamp_min(0.0)
        return Shaped(
            batch.r01_PG * (1 + bonus_PG.to(batch.rewards_PG.dtype)),
            diagnostics={"agreement": agreement_PG},
        )


def centroid_agreement(vectors_PGD: Tensor, members_PG: Tensor) -> Tensor:
    """Cosine of each vector with the mean of the members' unit vectors, (P, G) float64.

    0 for a vector without a direction, and where the members' directions cancel or there are none.
    """
    # the direction of the members' mean; its length does not matter
    unit_PGD, _ = unit_rows(vectors_PGD.double())
    centroid_P1D = (unit_PGD * members_PG.unsqueeze(-1)).sum(-2, keepdim=True)
    direction_P1D, _ = unit_rows(centroid_P1D)
    return (unit_PGD * direction_P1D).sum(-1)


def mean_of_members(values_PG: Tensor, members_PG: Tensor) -> Tensor:
    """Mean over the members of each group, (P, 1); 0 in a group without members."""
    # a group without members is divided by 1
    inside_PG = torch.where(members_PG, values_PG, 0.0)
    return inside_PG.sum(-1, keepdim=True) / members_PG.sum(-1, keepdim=True).clamp(min=1)

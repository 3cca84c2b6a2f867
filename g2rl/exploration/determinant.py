"""Marginal volume: how much a response adds to the determinant of its group's kernel.

The family of DQO (arXiv 2509.04784), GCPO (2605.11461) and SetPO (2602.01062), whose exact formulas
are not known to us; this is the form that they share. With E the unit vectors of the members of a
group:

    K = E E' + eps I,     b_i = log det K - log det K without i = -log (K^-1)_ii
    r~_i = r_i + alpha b_i,   r in {0, 1}, for members

b is near log(1 + eps) for a response unlike all others, and falls to about log(2 eps) for one of
two copies. Members are the right responses (`among=correct`) or all. The vectors are embeddings of
the texts (published), or the gradient features Phi (`features=phi`, ours), where exp(b) without eps
is the projection residual of `exploration=g2rl exploration.score=projection`.

Trap: with fewer dimensions than members the kernel has no volume but eps, and b measures noise. A
vector of length 0 has no direction and gets log eps, the least there is.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from g2rl.exploration.signal import Stateless, missing_need, refuse_unknown
from g2rl.formulas.tensors import unit_rows
from g2rl.types import GroupBatch, Shaped

FEATURES = {"embeddings": "embeddings", "phi": "features"}
"""Choices of the setting, and what each needs."""
AMONG = ("correct", "all")


class MarginalVolume(Stateless):
    """Rewards of 0 and 1 plus the marginal log-volume of each member.

    Args:
        alpha: weight of the bonus, >= 0.
        eps: ridge of the kernel, > 0.
        features: "embeddings" or "phi".
        among: members of the kernel, "correct" or "all".
    """

    name = "determinant"

    def __init__(
        self,
        alpha: float = 0.1,
        eps: float = 0.01,
        features: str = "embeddings",
        among: str = "correct",
    ) -> None:
        if alpha < 0 or eps <= 0:
            raise ValueError(f"exploration: need alpha >= 0 and eps > 0, got {alpha} and {eps}")
        # the vectors decide what a batch has to carry
        refuse_unknown("features", features, tuple(FEATURES))
        refuse_unknown("among", among, AMONG)
        self.alpha, self.eps, self.features, self.among = alpha, eps, features, among
        self.needs = frozenset({FEATURES[features]})

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Shape one batch.

        Returns:
            Rewards (P, G), and the diagnostic log_volume (b; 0 for responses that are no member).

        Raises:
            ValueError: the batch carries no such vectors.
        """
        # embeddings, or Phi
        vectors_PGE = batch.embeddings_PGE
        if self.features == "phi":
            vectors_PGE = batch.features_PGD
        if vectors_PGE is None:
            raise missing_need(self.name, f"{FEATURES[self.features]}")

        # right responses alone, or all
        members_PG = batch.correct_PG
        if self.among == "all":
            members_PG = torch.ones_like(batch.correct_PG)
        volume_PG = marginal_log_volume(vectors_PGE, members_PG, self.eps)
        return Shaped(
            batch.r01_PG + self.alpha * volume_PG.to(batch.rewards_PG.dtype),
            diagnostics={"log_volume": volume_PG},
        )


def marginal_log_volume(vectors_PGE: Tensor, members_PG: Tensor, eps: float) -> Tensor:
    """b_i of the module, (P, G) float64; 0 for responses that are no member.

    Args:
        vectors_PGE: one vector a response, of any length.
        members_PG: boolean.
        eps: ridge > 0.

    Returns:
        Values in [log eps, log(1 + eps)].
    """
    # a response that is no member has the vector 0, so the kernel falls apart and it has no say
    unit_PGE, _ = unit_rows(vectors_PGE.double())
    unit_PGE = unit_PGE * members_PG.unsqueeze(-1)
    gram_PGG = unit_PGE @ unit_PGE.transpose(-1, -2)
    ridge_GG = eps * torch.eye(gram_PGG.shape[-1], dtype=torch.float64)

    # marginal volumes stand on the diagonal of the inverse
    inverse_PG = torch.linalg.inv(gram_PGG + ridge_GG).diagonal(dim1=-2, dim2=-1)
    # rounding must not leave the range that the ridge allows
    volume_PG = -inverse_PG.clamp_min(torch.finfo(torch.float64).tiny).log()
    volume_PG = volume_PG.clamp(math.log(eps), math.log1p(eps))
    return torch.where(members_PG, volume_PG, 0.0)

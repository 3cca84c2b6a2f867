"""RepExp: an elliptical bonus in representation space (arXiv 2510.11686), and its twin on Phi.

Tuyls et al. 2025. With h_i a vector of each response, projected at random to `dim` dimensions and
centred within the group:

    b_i = h_i' (lambda I + sum_j h_j h_j')^-1 h_i        (leverage, at most 1)
    r~_i = r_i + beta b_i,   r in {0, 1}

`bonus=leave_one_out` leaves h_i out of the matrix, which makes b / (1 - b) of it. The published
runs take leverage although the configuration's default is the other, so leverage is the default
here. The vectors (`features`):

    reference   mean last hidden state of the frozen initial policy (published)
    hidden      the same of the policy that trains
    phi         the gradient feature of G2RL: the elliptical bonus in gradient space (ours)

The projection is drawn anew every step, as published, from (`seed`, step), so that a run that goes
on draws the same. No bonus where no response is right.

Traps. With G <= dim the leverages of a group are nearly equal: the matrix has as many directions as
there are responses, and only lambda tells them apart. A bonus of beta = 0.01 is tiny, but in a
group in which all are right it is all there is, and dividing by its spread makes advantages of
order one (`skip_all_correct=true` turns it off there; the published runs leave it on). lambda is in
units of squared length, so vectors of another scale are another method: `unit=true` divides each by
its length first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from g2rl.exploration.signal import Stateless, missing_need, refuse_unknown
from g2rl.formulas.tensors import unit_rows
from g2rl.types import GroupBatch, Shaped

FEATURES = {"reference": "reference_hidden", "hidden": "hidden", "phi": "features"}
"""Choices of the setting, and what each needs."""
BONUSES = ("leverage", "leave_one_out")
ROUNDING = 1e-13
"""Eigenvalues of a float64 Gram matrix below this share of the largest are rounding noise."""


class RepresentationExploration(Stateless):
    """Rewards of 0 and 1 plus an elliptical bonus.

    Args:
        beta: weight of the bonus, >= 0.
        ridge: lambda > 0, in units of squared length of the vectors.
        dim: dimensions of the random projection, >= 1; None projects nothing.
        bonus: "leverage" or "leave_one_out".
        features: "reference", "hidden" or "phi", see the module.
        unit: divide every vector by its length before all else.
        skip_all_correct: no bonus in groups in which all responses are right.
        seed: of the projections.
    """

    name = "repexp"

    def __init__(
        self,
        beta: float = 0.01,
        ridge: float = 0.01,
        dim: int | None = 32,
        bonus: str = "leverage",
        features: str = "reference",
        unit: bool = False,
        skip_all_correct: bool = False,
        seed: int = 0,
    ) -> None:
        if beta < 0 or ridge <= 0 or (dim is not None and dim < 1):
            raise ValueError(
                f"exploration: need beta >= 0, ridge > 0 and dim >= 1, got {beta}, {ridge}, {dim}"
            )
        # choices by name
        refuse_unknown("bonus", bonus, BONUSES)
        refuse_unknown("features", features, tuple(FEATURES))
        self.beta, self.ridge, self.dim, self.bonus = beta, ridge, dim, bonus
        self.features, self.unit, self.skip_all_correct = features, unit, skip_all_correct
        self.seed = seed
        self.needs = frozenset({FEATURES[features]})

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Shape one batch.

        Returns:
            Rewards (P, G), the diagnostic elliptical_bonus, and its mean as a metric.

        Raises:
            ValueError: the batch carries no such vectors.
        """
        # vectors of few dimensions
        vectors_PGD = self._vectors(batch).double()
        if self.unit:
            vectors_PGD, _ = unit_rows(vectors_PGD)
        if self.dim is not None:
            width = vectors_PGD.shape[-1]
            vectors_PGD = vectors_PGD @ sparse_projection(width, self.dim, self.seed, batch.step)
        bonus_PG = elliptical_bonus(vectors_PGD, self.ridge, self.bonus == "leave_one_out")

        # groups without a bonus
        none_P1 = ~batch.correct_PG.any(-1, keepdim=True)
        if self.skip_all_correct:
            none_P1 |= batch.correct_PG.all(-1, keepdim=True)
        bonus_PG = bonus_PG.masked_fill(none_P1, 0.0)
        return Shaped(
            batch.r01_PG + self.beta * bonus_PG.to(batch.rewards_PG.dtype),
            diagnostics={"elliptical_bonus": bonus_PG},
            metrics={"elliptical_bonus": bonus_PG.mean().item()},
        )

    def _vectors(self, batch: GroupBatch) -> Tensor:
        """The vectors of the setting `features`, (P, G, D)."""
        # whose view of the response
        vectors = {
            "reference": batch.reference_hidden_PGD,
            "hidden": batch.hidden_PGD,
            "phi": batch.features_PGD,
        }[self.features]
        if vectors is None:
            raise missing_need(self.name, f"vectors (features={self.features})")
        return vectors


def elliptical_bonus(vectors_PGD: Tensor, ridge: float, leave_one_out: bool = False) -> Tensor:
    """b_i of the module, of vectors that are centred within each group first.

        diag(H (ridge I + H'H)^-1 H') = diag(K (K + ridge I)^-1)    with K = H H'

    so that only a (G, G) matrix is inverted.

    Args:
        vectors_PGD: one vector a response; computed in float64.
        ridge: lambda > 0.
        leave_one_out: b / (1 - b), which is the bonus when h_i is not in the matrix.

    Returns:
        (P, G) float64, >= 0; 0 in a group of one, and in a group of equal vectors.
    """
    centred_PGD = vectors_PGD.double() - vectors_PGD.double().mean(-2, keepdim=True)

    # vectors of any size must not overflow their products: divide both sides by their scale
    scale_P11 = centred_PGD.abs().amax((-1, -2), keepdim=True).clamp_min(math.sqrt(ridge))
    smallest = torch.finfo(torch.float64).tiny  # the ridge may vanish beside very long vectors
    small_PGD = centred_PGD / scale_P11
    gram_PGG = small_PGD @ small_PGD.transpose(-1, -2)
    ridge_P1 = (ridge / scale_P11.square()).squeeze(-1).clamp_min(smallest)
    ridge_PG = ridge_P1.expand(gram_PGG.shape[:-1])

    # b from the eigenvalues: sum_k u_ik^2 e_k / (e_k + ridge)
    eigenvalues_PG, vectors_PGG = torch.linalg.eigh(gram_PGG)
    # directions at the level of rounding are none, however small the ridge
    noise_P1 = ROUNDING * eigenvalues_PG.amax(-1, keepdim=True)
    eigenvalues_PG = torch.where(eigenvalues_PG > noise_P1, eigenvalues_PG, 0.0)
    if leave_one_out:
        # 1 - b as a sum of its own, because b is rounded to 1 where vectors are long
        rest_PG = ridge_PG / (eigenvalues_PG + ridge_PG)
        left_PG = (vectors_PGG.square() * rest_PG.unsqueeze(-2)).sum(-1)
        return (1 / left_PG.clamp_min(smallest) - 1).clamp_min(0.0)
    # near 1 along directions that are long beside the ridge
    shares_PG = eigenvalues_PG / (eigenvalues_PG + ridge_PG)
    return (vectors_PGG.square() * shares_PG.unsqueeze(-2)).sum(-1).clamp(0.0, 1.0)


def sparse_projection(width: int, dim: int, seed: int, step: int) -> Tensor:
    """A sparse random projection, (width, dim) float64, which keeps squared lengths on average.

    Li, Hastie and Church 2006: entries are 0 but for a share 1 / sqrt(width), and those are
    +-sqrt(sqrt(width) / dim). A function of the arguments alone.
    """
    # random numbers of this step alone
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    uniform_DE = torch.rand(width, dim, generator=generator, dtype=torch.float64)
    density = 1 / math.sqrt(width)
    size = math.sqrt(1 / (density * dim))

    # the two ends of the interval become the two signs
    positive_DE = uniform_DE < density / 2
    negative_DE = uniform_DE > 1 - density / 2
    return size * (positive_DE.double() - negative_DE.double())

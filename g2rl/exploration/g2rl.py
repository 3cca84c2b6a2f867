"""G2RL: the policy's own first-order update geometry scores each response (arXiv 2512.15687).

    S_ij = <Phi_i, Phi_j> / (|Phi_i| |Phi_j|)                           Eq. 9
    w_ij = exp(r_j) / sum_{k != i} exp(r_k),  w_ii = 0                  Eq. 10
    nu_i = max(1 - sum_{j != i} w_ij S_ij^2, 0)                         Eq. 11
    r~_i = clip(r_i f_i, -clip, clip),  f from lam and a normalised nu  Eq. 12-13

Where this differs from the text of the paper, and why:

1. Eq. 12 read literally punishes a novel wrong answer *less*, its prose says *more*. `negatives`
   chooses; the default follows the prose.
2. lam is never stated in the paper; the default is 1.
3. A feature of zero norm (an empty response) has S = 0 against all others instead of Phi / eps.
4. A group whose nu differ by no more than `min_spread` counts as flat (normalised nu = 0, or 1/2
   under "centered", so that rewards keep their order), and min-max does not stretch rounding noise
   over [0, 1].
5. `score` offers two readings beyond Eq. 11: "signed" counts only aligned directions, max(S, 0)^2,
   and "projection" is the residual 1 - |P_span Phi_i|^2 on the span of the others, which the prose
   describes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g2rl.exploration.signal import Stateless, missing_need
from g2rl.formulas.pairs import cosine_metrics
from g2rl.formulas.tensors import cosine_matrix, midrank, minmax, unit_rows
from g2rl.types import GroupBatch, Shaped

NEGATIVES = ("amplify", "equation", "centered", "none")
NORMALIZE = ("minmax", "none", "rank")
SCORES = ("squared", "signed", "projection")
SAME_DIRECTION = (
    1e-6  # eigenvalues of a Gram matrix below this share of the largest are rounding noise
)


class GradientGuided(Stateless):
    """Shape rewards by the novelty of each response's gradient direction within its group.

    Args:
        lam: strength lambda >= 0; 0 leaves rewards as they are.
        clip: bound of the shaped reward, [-clip, clip].
        negatives: how wrong responses are shaped, see `shape`.
        normalize: bounded transform of nu inside the group.
        score: how similarity to the others is turned into nu.
        min_spread: groups with a smaller spread of nu count as flat.
    """

    name = "g2rl"
    needs = frozenset({"features"})

    def __init__(
        self,
        lam: float = 1.0,
        clip: float = 3.0,
        negatives: str = "amplify",
        normalize: str = "minmax",
        score: str = "squared",
        min_spread: float = 1e-6,
    ) -> None:
        # refuse what cannot be, by the setting's name
        if lam < 0 or clip <= 0 or min_spread < 0:
            raise ValueError(
                f"exploration: need lam >= 0, clip > 0, min_spread >= 0; got {lam}, {clip}, {min_spread}"
            )
        for field, value, allowed in (
            ("negatives", negatives, NEGATIVES),
            ("normalize", normalize, NORMALIZE),
            ("score", score, SCORES),
        ):
            if value not in allowed:
                raise ValueError(f"exploration.{field} must be one of {allowed}, got {value!r}")

        # settings
        self.lam, self.clip = lam, clip
        self.negatives, self.normalize, self.score = negatives, normalize, score
        self.min_spread = min_spread

    def __call__(self, batch: GroupBatch) -> Shaped:
        if batch.features_PGD is None:
            raise missing_need(self.name, "gradient features")

        # how alike the gradient directions of a group are (Eq. 9)
        cosine_PGG, zero_PG = cosine_matrix(batch.features_PGD)

        # how little of a response the others explain (Eq. 10-11)
        if self.score == "projection":
            nu_PG = projection_residual(batch.features_PGD)
        else:
            nu_PG = novelty(cosine_PGG, batch.rewards_PG, self.score)

        # scaled inside the group; a flat group keeps its rewards
        nu_bar_PG = normalise(nu_PG, self.normalize, self.min_spread)
        spread_P = nu_PG.amax(-1) - nu_PG.amin(-1)
        flat_P = spread_P <= self.min_spread
        if self.negatives == "centered":  # its neutral value is 1/2: at 0 it would erase the reward
            nu_bar_PG = nu_bar_PG.masked_fill(flat_P.unsqueeze(-1), 0.5)

        # reward with novelty (Eq. 12-13)
        shaped_PG = shape(batch.rewards_PG, nu_bar_PG, self.lam, self.clip, self.negatives)
        metrics = {
            "nu_mean": nu_PG.mean().item(),
            "nu_spread": spread_P.mean().item(),
            "flat_groups": flat_P.float().mean().item(),
            "zero_features": zero_PG.float().mean().item(),
            "feature_norm": batch.features_PGD.float().norm(dim=-1).mean().item(),
            **cosine_metrics(cosine_PGG, batch.correct_PG),
        }
        return Shaped(shaped_PG, diagnostics={"nu": nu_PG, "nu_bar": nu_bar_PG}, metrics=metrics)


def reward_weights(rewards_PG: Tensor) -> Tensor:
    """w_ij = exp(r_j) / sum_{k != i} exp(r_k) with w_ii = 0 (Eq. 10); (P, G, G), rows sum to 1.

    In a group of one the only row is all zero.
    """
    # no response explains itself
    group = rewards_PG.shape[-1]
    eye = torch.eye(group, dtype=torch.bool, device=rewards_PG.device)
    logits_PGG = (
        rewards_PG.unsqueeze(-2).expand(*rewards_PG.shape, group).masked_fill(eye, -torch.inf)
    )
    return logits_PGG.softmax(-1).nan_to_num(0.0) if group > 1 else torch.zeros_like(logits_PGG)


def novelty(cosine_PGG: Tensor, rewards_PG: Tensor, score: str) -> Tensor:
    """nu_i in [0, 1]: how little of response i's direction the others explain (Eq. 11), (P, G).

    A group of one has nu = 1: nothing explains it. `score` is "squared" or "signed".
    """
    # squared similarity, weighed by reward
    explained_PGG = cosine_PGG.clamp_min(0.0) if score == "signed" else cosine_PGG
    overlap_PG = (reward_weights(rewards_PG) * explained_PGG.square()).sum(-1)
    return (1.0 - overlap_PG).clamp(0.0, 1.0)


def projection_residual(features_PGD: Tensor) -> Tensor:
    """nu_i = 1 - |P_span(others) unit_i|^2: the part of a direction outside the span of the others,
    (P, G).

    With s the cosines to the others and S_o their Gram matrix this is 1 - s' S_o^+ s, in float64.
    Directions that the others hold only at the level of rounding do not count as spanned. A group
    of one has nu = 1, a zero row has nu = 1. Cost: G eigenproblems of size G - 1 per prompt.
    """
    # inner products of unit features
    unit_PGD, _ = unit_rows(features_PGD.double())
    gram_PGG = unit_PGD @ unit_PGD.transpose(-1, -2)
    group = gram_PGG.shape[-1]
    if group == 1:
        return torch.ones_like(gram_PGG[..., 0]).to(features_PGD.dtype)

    # for each response the Gram matrix of the others, and its products with them
    index = torch.arange(group, device=features_PGD.device)
    others_GH = index.expand(group, group)[index.unsqueeze(0) != index.unsqueeze(1)].view(
        group, group - 1
    )
    among_PGHH = gram_PGG[:, others_GH.unsqueeze(-1), others_GH.unsqueeze(-2)]
    to_PGH = gram_PGG[:, index.unsqueeze(-1), others_GH]

    # s' S^+ s, the squared length of the projection on the others' span
    inverse_PGHH = torch.linalg.pinv(among_PGHH, rtol=SAME_DIRECTION, hermitian=True)
    explained_PG = torch.einsum("pgh,pghk,pgk->pg", to_PGH, inverse_PGHH, to_PGH)
    return (1.0 - explained_PG).clamp(0.0, 1.0).to(features_PGD.dtype)


def normalise(nu_PG: Tensor, how: str, min_spread: float) -> Tensor:
    """nu-bar in [0, 1]: min-max, rank (ties share their mean rank) or nu itself; flat groups see
    `minmax`."""
    if how == "minmax":
        return minmax(nu_PG, floor=min_spread)
    if how == "rank":
        flat_P1 = (nu_PG.amax(-1, keepdim=True) - nu_PG.amin(-1, keepdim=True)) <= min_spread
        return midrank(nu_PG).masked_fill(flat_P1, 0.0)
    return nu_PG


def shape(rewards_PG: Tensor, nu_bar_PG: Tensor, lam: float, clip: float, negatives: str) -> Tensor:
    """Shaped reward (Eq. 12-13), clipped to [-clip, clip].

    | negatives | r = +1              | r = -1                 |
    |-----------|---------------------|------------------------|
    | amplify   | 1 + lam nu          | -(1 + lam nu)          |
    | equation  | 1 + lam nu          | -1 + lam nu            |
    | centered  | 1 + lam (2 nu - 1)  | -(1 + lam (2 nu - 1))  |
    | none      | 1 + lam nu          | -1                     |
    """
    if negatives == "amplify":
        shaped = rewards_PG * (1 + lam * nu_bar_PG)
    elif negatives == "equation":
        shaped = rewards_PG + lam * nu_bar_PG  # r f with f = 1 + lam r nu and r^2 = 1
    elif negatives == "centered":
        shaped = rewards_PG * (1 + lam * (2 * nu_bar_PG - 1))
    else:
        shaped = torch.where(rewards_PG > 0, rewards_PG * (1 + lam * nu_bar_PG), rewards_PG)
    return shaped.clamp(-clip, clip)

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
   describes. "random" is a control: nu is drawn by chance, everything else stays.
6. The paper's rewards are -1 and +1, its advantages are divided by the spread of the group, and it
   clips. All three are open here (`reward`, `spread`, `clip`). On rewards of 0 and 1 a wrong
   response has reward 0 whatever its novelty, so `negatives` decides nothing but whether right
   responses are centred; the weights of Eq. 10 then come from 0 and 1 too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g2rl.exploration.signal import Stateless, missing_need, refuse_unknown
from g2rl.formulas.advantages import SCALES
from g2rl.formulas.feature_sums import identity_metrics
from g2rl.formulas.pairs import cosine_metrics
from g2rl.formulas.tensors import cosine_matrix, midrank, minmax, unit_rows
from g2rl.types import GroupBatch, Shaped

# choices of the settings of these names
NEGATIVES = ("amplify", "equation", "centered", "none")
NORMALIZE = ("minmax", "none", "rank")
SCORES = ("squared", "signed", "projection")
CHANCE = "random"
REWARDS = ("pm1", "01")
SAME_DIRECTION = 1e-6
"""Eigenvalues of a Gram matrix below this share of the largest are rounding noise."""


class GradientGuided(Stateless):
    """Shape rewards by the novelty of each response's gradient direction within its group.

    Args:
        lam: strength lambda >= 0; 0 leaves rewards as they are.
        clip: bound of the shaped reward, [-clip, clip]; None does not clip.
        negatives: how wrong responses are shaped, see `shape`.
        normalize: bounded transform of nu inside the group.
        score: how similarity to the others is turned into nu.
        min_spread: groups with a smaller spread of nu count as flat.
        reward: "pm1" for rewards of -1 and +1, "01" for 0 and 1.
        spread: whether advantages are divided by the spread of the group ("std") or not ("none");
            None leaves it to `algorithm.advantage_scale`.
    """

    name = "g2rl"
    needs = frozenset({"features"})

    def __init__(
        self,
        lam: float = 1.0,
        clip: float | None = 3.0,
        negatives: str = "amplify",
        normalize: str = "minmax",
        score: str = "squared",
        min_spread: float = 1e-6,
        reward: str = "pm1",
        spread: str | None = None,
    ) -> None:
        if lam < 0 or (clip is not None and clip <= 0) or min_spread < 0:
            raise ValueError(
                "exploration: need lam >= 0, clip > 0 or null, min_spread >= 0; "
                f"got {lam}, {clip}, {min_spread}"
            )

        # each choice by name
        choices = (
            ("negatives", negatives, NEGATIVES),
            ("normalize", normalize, NORMALIZE),
            ("score", score, (*SCORES, CHANCE)),
            ("reward", reward, REWARDS),
        )
        for field, value, allowed in choices:
            refuse_unknown(field, value, allowed)
        if spread is not None:
            refuse_unknown("spread", spread, SCALES)

        self.lam, self.clip = lam, clip
        self.negatives, self.normalize, self.score = negatives, normalize, score
        self.min_spread, self.reward, self.spread = min_spread, reward, spread

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Shape one batch.

        Returns:
            Rewards (P, G); the diagnostics nu and nu_bar (normalised); and metrics of nu, of the
            features and of the cosines by pair class.

        Raises:
            ValueError: the batch carries no gradient features.
        """
        if batch.features_PGD is None:
            raise missing_need(self.name, "gradient features")
        rewards_PG = batch.rewards_PG if self.reward == "pm1" else batch.r01_PG

        # Eq. 9: how alike the gradient directions of a group are
        cosine_PGG, zero_PG = cosine_matrix(batch.features_PGD)

        # Eq. 10 and 11: how little of a response's direction the others explain
        if self.score == "projection":
            nu_PG = projection_residual(batch.features_PGD)
        elif self.score == CHANCE:
            nu_PG = by_chance(batch)
        else:
            nu_PG = novelty(cosine_PGG, rewards_PG, self.score)

        # scale nu inside each group
        nu_bar_PG = normalise(nu_PG, self.normalize, self.min_spread)
        spread_P = nu_PG.amax(-1) - nu_PG.amin(-1)
        is_flat_P = spread_P <= self.min_spread
        if self.negatives == "centered":
            # a flat group must keep its rewards, and here 1/2 is the value that changes nothing
            nu_bar_PG = nu_bar_PG.masked_fill(is_flat_P.unsqueeze(-1), 0.5)

        # Eq. 12 and 13: novel responses weigh more
        shaped_PG = shape(rewards_PG, nu_bar_PG, self.lam, self.clip, self.negatives)

        # nu, features and cosines of the batch, for the log
        feature_norm_PG = batch.features_PGD.float().norm(dim=-1)
        metrics = {
            "nu_mean": nu_PG.mean().item(),
            "nu_spread": spread_P.mean().item(),
            "flat_groups": is_flat_P.float().mean().item(),
            "zero_features": zero_PG.float().mean().item(),
            "feature_norm": feature_norm_PG.mean().item(),
            **cosine_metrics(cosine_PGG, batch.correct_PG),
            **identity_metrics(
                batch.features_PGD, batch.lengths_PG, cosine_PGG, batch.first_alike_PG
            ),
        }
        return Shaped(
            shaped_PG,
            diagnostics={"nu": nu_PG, "nu_bar": nu_bar_PG},
            metrics=metrics,
            advantage_scale=self.spread,
        )


def reward_weights(rewards_PG: Tensor) -> Tensor:
    """Weight of response j in the novelty of response i (Eq. 10).

        w_ij = exp(r_j) / sum_{k != i} exp(r_k),   w_ii = 0

    Returns:
        (P, G, G) whose rows sum to 1; in a group of one the only weight is 0.
    """
    group_size = rewards_PG.shape[-1]
    rewards_PGG = rewards_PG.unsqueeze(-2).expand(*rewards_PG.shape, group_size)
    if group_size == 1:
        return torch.zeros_like(rewards_PGG)

    # a softmax over the others
    own_GG = torch.eye(group_size, dtype=torch.bool, device=rewards_PG.device)
    others_PGG = rewards_PGG.masked_fill(own_GG, -torch.inf)
    return others_PGG.softmax(-1).nan_to_num(0.0)


def novelty(cosine_PGG: Tensor, rewards_PG: Tensor, score: str) -> Tensor:
    """How little of a response's direction the others of its group explain (Eq. 11).

    Args:
        cosine_PGG: S, cosines of gradient features.
        rewards_PG: base rewards, which weigh the others.
        score: "squared" counts all of S^2, "signed" only where S > 0.

    Returns:
        nu (P, G) in [0, 1]; 1 in a group of one, where nothing explains the response.
    """
    if score == "signed":
        # opposite directions explain nothing
        cosine_PGG = cosine_PGG.clamp_min(0.0)

    # squared cosines to the others, as a weighted mean
    overlap_PG = (reward_weights(rewards_PG) * cosine_PGG.square()).sum(-1)
    return (1.0 - overlap_PG).clamp(0.0, 1.0)


def projection_residual(features_PGD: Tensor) -> Tensor:
    """The part of a response's direction that lies outside the span of the others.

        nu_i = 1 - |P_span(others) unit_i|^2 = 1 - s' S_o^+ s

    with s the cosines to the others and S_o their Gram matrix, in float64. Directions that the
    others hold only at the level of rounding do not count as spanned. Costs G eigenproblems of size
    G - 1 a prompt.

    Returns:
        nu (P, G) in [0, 1]; 1 in a group of one and for a zero row.
    """
    unit_PGD, _ = unit_rows(features_PGD.double())
    gram_PGG = unit_PGD @ unit_PGD.transpose(-1, -2)
    group_size = gram_PGG.shape[-1]
    # nothing explains a lone response
    if group_size == 1:
        return torch.ones_like(gram_PGG[..., 0]).to(features_PGD.dtype)

    # row i holds the numbers of the H = G - 1 others of response i
    index_G = torch.arange(group_size, device=features_PGD.device)
    is_other_GG = index_G.unsqueeze(0) != index_G.unsqueeze(1)
    others_GH = index_G.expand(group_size, group_size)[is_other_GG].view(group_size, group_size - 1)

    # for each response the Gram matrix of its others, and its cosines to them
    among_PGHH = gram_PGG[:, others_GH.unsqueeze(-1), others_GH.unsqueeze(-2)]
    to_PGH = gram_PGG[:, index_G.unsqueeze(-1), others_GH]

    # the squared length of the projection on their span
    inverse_PGHH = torch.linalg.pinv(among_PGHH, rtol=SAME_DIRECTION, hermitian=True)
    explained_PG = torch.einsum("pgh,pghk,pgk->pg", to_PGH, inverse_PGHH, to_PGH)
    return (1.0 - explained_PG).clamp(0.0, 1.0).to(features_PGD.dtype)


def by_chance(batch: GroupBatch) -> Tensor:
    """A control: nu (P, G) uniform in [0, 1), a function of the training step alone, so that a run
    that goes on draws the same.

    Runs of other seeds draw the same numbers too. They stay independent in what matters, which
    response gets which number, because the responses of a group are drawn alike and independently,
    so that their order says nothing.
    """
    generator = torch.Generator().manual_seed(batch.step)
    shape = batch.correct_PG.shape
    return torch.rand(shape, generator=generator).to(batch.correct_PG.device)


def normalise(nu_PG: Tensor, how: str, min_spread: float) -> Tensor:
    """Bring nu to [0, 1] inside each group; min-max and rank map a flat group to 0.

    Args:
        nu_PG: novelty.
        how: "minmax"; "rank", where ties share their mean rank; or "none", nu itself.
        min_spread: a group with a spread of at most this is flat.
    """
    if how == "minmax":
        return minmax(nu_PG, floor=min_spread)
    if how == "rank":
        # ranks of values that differ by rounding alone would look like novelty
        spread_P1 = nu_PG.amax(-1, keepdim=True) - nu_PG.amin(-1, keepdim=True)
        return midrank(nu_PG).masked_fill(spread_P1 <= min_spread, 0.0)
    return nu_PG


def shape(
    rewards_PG: Tensor, nu_bar_PG: Tensor, lam: float, clip: float | None, negatives: str
) -> Tensor:
    """Shaped rewards (P, G) of base rewards (Eq. 12 and 13), within [-clip, clip] if there is one.

    nu is normalised, see `normalise`:

    | negatives | r = +1              | r = -1                 | r = 0 |
    |-----------|---------------------|------------------------|-------|
    | amplify   | 1 + lam nu          | -(1 + lam nu)          | 0     |
    | equation  | 1 + lam nu          | -1 + lam nu            | 0     |
    | centered  | 1 + lam (2 nu - 1)  | -(1 + lam (2 nu - 1))  | 0     |
    | none      | 1 + lam nu          | -1                     | 0     |
    """
    if negatives == "amplify":
        # novelty strengthens reward and punishment
        shaped_PG = rewards_PG * (1 + lam * nu_bar_PG)
    elif negatives == "equation":
        # Eq. 12 to the letter: r f with f = 1 + lam r nu
        shaped_PG = rewards_PG + lam * nu_bar_PG * rewards_PG.square()
    elif negatives == "centered":
        # the least novel responses are weakened as much as the most novel are strengthened
        shaped_PG = rewards_PG * (1 + lam * (2 * nu_bar_PG - 1))
    else:
        # wrong responses keep their reward
        amplified_PG = rewards_PG * (1 + lam * nu_bar_PG)
        shaped_PG = torch.where(rewards_PG > 0, amplified_PG, rewards_PG)
    return shaped_PG if clip is None else shaped_PG.clamp(-clip, clip)

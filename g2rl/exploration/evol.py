"""EVOL-RL: novelty measured by an external sentence encoder, ranked inside each correctness class.

Zhou et al. 2025 (arXiv 2509.15194). Differences from the paper and its reference code:

- the label is the verifier's verdict, not agreement with the majority answer (the paper's RLVR
  setting);
- the reference excludes answers whose \\boxed{} holds no digit from all comparisons and gives them
  -1, which throws out every symbolic or multiple-choice answer; here an unreadable answer is simply
  wrong;
- the reference embeds a random vector when its encoder fails; here encoders fail the run, and the
  zero row of an empty response has cosine 0 with everything and is counted;
- the reference calls a class equal only when max = min exactly, so rounding noise between copies of
  one text spans the full reward range; here a spread up to `EQUAL` counts as equal;
- a lone response (G = 1) keeps ±1 in the reference; here it is the only one of its class: 1.0 or
  -0.5.

The paper's other parts (asymmetric clipping, entropy bonus) are settings of the loss, not of this
signal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from g2rl.exploration.signal import Stateless, missing_need
from g2rl.formulas.tensors import unit_cosines, unit_rows_float64
from g2rl.types import GroupBatch, Shaped

EQUAL = 1e-6
"""Spread of u up to which a class counts as all equal; a float32 cosine is rounded by 1e-7."""


def clipped_cosines(embeddings_PGE: Tensor) -> Tensor:
    """Pairwise cosine similarities inside each group, clipped to [0, 1].

        s_ij = min(max(e_i·e_j / (‖e_i‖ ‖e_j‖), 0), 1)   for i != j;   0 when e_i or e_j is zero
        s_ii = 0

    With a diagonal of 0, the sum and the maximum of a row are those over the *other* responses,
    because no similarity is below 0.

    Args:
        embeddings_PGE: (P, G, E), of any length; computed in float64.

    Returns:
        (P, G, G) float64.
    """
    unit_PGE, _ = unit_rows_float64(embeddings_PGE)

    # opposite directions count as unrelated, and nothing is compared with itself
    similarity_PGG = unit_cosines(unit_PGE).clamp_min(0.0)
    own_GG = torch.eye(unit_PGE.shape[1], dtype=torch.bool, device=unit_PGE.device)
    return similarity_PGG.masked_fill(own_GG, 0.0)


def evol_novelty(correct_PG: Tensor, embeddings_PGE: Tensor) -> Tensor:
    """How little a response resembles the others of its group.

        u_i = 1 - (½ mean_{j≠i, same correctness} s_ij + ½ max_{j≠i} s_ij)

    arXiv 2509.15194. The maximum runs over the whole group. A response alone in its class takes the
    mean over all others instead, as the reference code does; its reward does not depend on u. G = 1
    gives 1.

    Args:
        correct_PG: (P, G) boolean verdicts.
        embeddings_PGE: (P, G, E) embeddings.

    Returns:
        (P, G) float64 in [0, 1].
    """
    similarity_PGG = clipped_cosines(embeddings_PGE)

    # the peers of a response are the others of its class, or all others if it is alone there
    same_class_PGG = correct_PG[:, :, None] == correct_PG[:, None, :]
    others_GG = ~torch.eye(correct_PG.shape[1], dtype=torch.bool, device=correct_PG.device)
    peers_PGG = same_class_PGG & others_GG
    is_alone_PG1 = ~peers_PGG.any(dim=-1, keepdim=True)
    peers_PGG = torch.where(is_alone_PG1, others_GG, peers_PGG)

    # mean over the peers, maximum over the group
    mean_PG = (similarity_PGG * peers_PGG).sum(-1) / peers_PGG.sum(-1).clamp(min=1)
    return 1.0 - 0.5 * mean_PG - 0.5 * similarity_PGG.amax(dim=-1)


def scale_within(values_PG: Tensor, members_PG: Tensor) -> Tensor:
    """Min-max of the values over the members of each group.

        ū_i = (u_i - min u) / (max u - min u)

    ½ when the spread is at most `EQUAL`, 1 for a single member.

    Args:
        values_PG: (P, G) float64.
        members_PG: (P, G) boolean; entries outside it are returned as 0.

    Returns:
        (P, G) float64 in [0, 1].
    """
    # extremes over the members; an empty class has the spread -inf
    low_P1 = values_PG.masked_fill(~members_PG, torch.inf).amin(dim=1, keepdim=True)
    high_P1 = values_PG.masked_fill(~members_PG, -torch.inf).amax(dim=1, keepdim=True)
    spread_P1 = high_P1 - low_P1
    is_spread_P1 = spread_P1 > EQUAL

    # where there is no spread, the divisor is not used and need only be no 0
    scaled_PG = (values_PG - low_P1) / torch.where(is_spread_P1, spread_P1, 1.0)

    # values without spread share one place
    is_single_P1 = members_PG.sum(dim=1, keepdim=True) == 1
    shared_P1 = torch.where(is_single_P1, 1.0, 0.5).double()
    scaled_PG = torch.where(is_spread_P1, scaled_PG, shared_P1)
    return torch.where(members_PG, scaled_PG, 0.0)


def evol_rewards(correct_PG: Tensor, embeddings_PGE: Tensor) -> tuple[Tensor, Tensor]:
    """The EVOL-RL reward: the verdict picks a range, novelty inside the class the place in it.

        correct:  r̃ =  0.5 + 0.5 ū
        wrong:    r̃ = -1   + 0.5 ū      (a novel wrong answer is punished less)

    ū is `evol_novelty` scaled inside each class by `scale_within`. A class of two or more with
    equal u gets ±0.75, a single correct response 1.0, a single wrong one -0.5 (also when G = 1).

    Args:
        correct_PG: (P, G) boolean verdicts, G >= 1.
        embeddings_PGE: (P, G, E) embeddings; zero rows allowed.

    Returns:
        Rewards in [-1, -0.5] or [0.5, 1], and the unscaled novelty u; both (P, G) float32.

    Raises:
        ValueError: shapes that disagree, G = 0, verdicts that are not boolean, non-finite
            embeddings.
    """
    # refuse what could broadcast to nonsense or hide in a reward
    if correct_PG.dtype != torch.bool or correct_PG.ndim != 2 or correct_PG.shape[1] == 0:
        got = f"{correct_PG.dtype} {tuple(correct_PG.shape)}"
        raise ValueError(f"correct_PG must be boolean (P, G >= 1), got {got}")
    if embeddings_PGE.ndim != 3 or embeddings_PGE.shape[:2] != correct_PG.shape:
        got = f"{tuple(embeddings_PGE.shape)} beside verdicts {tuple(correct_PG.shape)}"
        raise ValueError(f"embeddings_PGE must be (P, G, E), got {got}")
    if not embeddings_PGE.isfinite().all():
        first = (~embeddings_PGE.isfinite()).any(dim=-1).nonzero()[0].tolist()
        raise ValueError(f"the embedding of prompt {first[0]}, response {first[1]} is not finite")

    # both classes of every group, each with its own scale
    novelty_PG = evol_novelty(correct_PG, embeddings_PGE)
    if_correct_PG = 0.5 + 0.5 * scale_within(novelty_PG, correct_PG)
    if_wrong_PG = -1.0 + 0.5 * scale_within(novelty_PG, ~correct_PG)
    rewards_PG = torch.where(correct_PG, if_correct_PG, if_wrong_PG)
    return rewards_PG.float(), novelty_PG.float()


class EvolRL(Stateless):
    """EVOL-RL as a signal: rewards from `evol_rewards` on the batch's external embeddings.

    The base rewards of +1 and -1 are replaced, not added to. Groups whose responses are all correct
    or all wrong get shaped rewards too; the advantage stage decides what becomes of them.
    """

    name = "evol"
    needs = frozenset({"embeddings"})

    def __call__(self, batch: GroupBatch) -> Shaped:
        """Shape one batch.

        Returns:
            Rewards (P, G) and the diagnostic evol_novelty. The metric evol_novelty_mean is the mean
            u of all responses, evol_zero_embeddings the number of responses whose embedding is
            zero.

        Raises:
            ValueError: the batch carries no embeddings, or anything that `evol_rewards` refuses.
        """
        if batch.embeddings_PGE is None:
            raise missing_need(self.name, "embeddings (configure an encoder)")

        rewards_PG, novelty_PG = evol_rewards(batch.correct_PG, batch.embeddings_PGE)

        # a response without text has the embedding zero
        zero_PG = (batch.embeddings_PGE == 0).all(dim=-1)
        return Shaped(
            rewards_PG=rewards_PG,
            diagnostics={"evol_novelty": novelty_PG},
            metrics={
                "evol_novelty_mean": float(novelty_PG.mean()),
                "evol_zero_embeddings": float(zero_PG.sum()),
            },
        )

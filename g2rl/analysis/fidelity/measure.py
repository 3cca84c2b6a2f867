"""True gradients and predictors of graded groups, as a table of pairs and a table of responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from g2rl.analysis.fidelity.names import TOTAL, TRUE
from g2rl.analysis.fidelity.predictors import predictors
from g2rl.analysis.fidelity.true_gradients import gram_cosines, group_grams, parameter_blocks
from g2rl.analysis.groups import GradedGroups
from g2rl.exploration.encoders.encoder import Encoder
from g2rl.exploration.g2rl import novelty
from g2rl.formulas.pairs import pair_table as pair_columns
from g2rl.formulas.pairs import pair_values
from g2rl.policy.batching import Sequences
from g2rl.policy.policy import Policy


@dataclass(slots=True)
class Measured:
    """What was measured of P groups of G responses."""

    pairs: pd.DataFrame
    """One row a pair i < j of a group: problem, first, second, pair (class), identical, predictors,
    and true/BLOCK, the true cosines."""
    responses: pd.DataFrame
    """One row a response: problem, sample, correct, tokens, entropy, nu_phi, nu_true,
    norm/BLOCK."""
    blocks: dict[str, int]
    """Number of parameters of each block."""


def measure(
    policy: Policy,
    groups: GradedGroups,
    *,
    temperature: float,
    feature_temperature: float | None = None,
    token_budget: int = 16_384,
    encoder: Encoder | None = None,
    blocks: Sequence[str] | None = None,
    projection: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> Measured:
    """True gradients and every predictor of each pair of responses.

    Args:
        temperature: tau of the true gradients' log-probabilities; the sampling temperature, as in
            training.
        feature_temperature: of p_t in Phi; None is `temperature`.
        token_budget: of a micro-batch when the predictors are scored.
        encoder: of the texts; None leaves out that predictor.
        blocks: of parameters whose gradients are taken; None takes all.
        projection: cells of each block's sketch; None is exact. See
            `g2rl.analysis.fidelity.true_gradients`.
        seed: of the sketches.
        on_progress: called with the number of responses whose gradients were just taken.
    """
    members = parameter_blocks(policy.model, blocks)

    # the truth: one backward pass a response
    grams = _grams_of_groups(
        policy,
        groups,
        members,
        temperature=temperature,
        projection=projection,
        seed=seed,
        on_progress=on_progress,
    )

    # what could predict it: forward passes only
    similarities, scores = predictors(
        policy,
        groups,
        temperature=temperature,
        feature_temperature=feature_temperature,
        token_budget=token_budget,
        encoder=encoder,
    )

    # the two tables
    return Measured(
        pairs=pair_table(groups, similarities, grams),
        responses=response_table(groups, similarities["phi"], scores.mean_entropy_N, grams),
        blocks={name: sum(p.numel() for p in block) for name, block in members.items()},
    )


def _grams_of_groups(
    policy: Policy,
    groups: GradedGroups,
    blocks: dict[str, list[nn.Parameter]],
    *,
    temperature: float,
    projection: int | None,
    seed: int,
    on_progress: Callable[[int], None] | None,
) -> dict[str, np.ndarray]:
    """Inner products of true gradients, (P, G, G) for each block and "all"."""
    count, size = groups.rollouts.shape
    sequences = groups.rollouts.sequences
    gram_of_groups: dict[str, list[np.ndarray]] = {}
    for p in range(count):
        # the group's responses stand next to each other
        rows = slice(p * size, (p + 1) * size)
        grams = group_grams(
            policy,
            Sequences(sequences.prompts[rows], sequences.responses[rows]),
            blocks,
            temperature=temperature,
            projection=projection,
            seed=(seed, p),
        )

        # group by group, since only cosines inside a group are wanted
        for name, gram_GG in grams.items():
            gram_of_groups.setdefault(name, []).append(gram_GG)
        if on_progress:
            on_progress(size)
    return {name: np.stack(values) for name, values in gram_of_groups.items()}


def pair_table(
    groups: GradedGroups, similarities: Mapping[str, Tensor], grams: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """One row a pair i < j of a group, the columns as in `Measured.pairs`.

    Args:
        similarities: predictors by name, (P, G, G) each; "phi" among them.
        grams: inner products of true gradients by block, (P, G, G) each.
    """
    # which pairs there are, and their classes
    columns = pair_columns(similarities["phi"], groups.correct_PG)
    frame = pd.DataFrame({name: columns[name] for name in ("problem", "first", "second", "pair")})

    # pairs of one and the same token sequence
    completions = groups.rollouts.completions
    identical = []
    for p, i, j in zip(frame["problem"], frame["first"], frame["second"], strict=True):
        identical.append(completions[p][i].token_ids == completions[p][j].token_ids)
    frame["identical"] = identical

    # the problem's id instead of its number
    ids = [problem.id for problem in groups.rollouts.problems]
    frame["problem"] = [ids[p] for p in frame["problem"]]

    # the predictors and the true cosines of these pairs
    for name, values_PGG in similarities.items():
        frame[name] = pair_values(values_PGG).double().flatten().numpy()
    for name, gram_PGG in grams.items():
        cosine_PGG = np.stack([gram_cosines(gram_GG) for gram_GG in gram_PGG])
        frame[TRUE + name] = pair_values(cosine_PGG).ravel()
    return frame


def response_table(
    groups: GradedGroups, phi_PGG: Tensor, entropy_N: Tensor, grams: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """One row a response, the columns as in `Measured.responses`.

    nu is the novelty of Eq. 11 of the paper, from cosines of Phi and from true cosines.

    Args:
        phi_PGG: cosines of Phi.
        entropy_N: mean token entropies.
        grams: inner products of true gradients by block, (P, G, G) each.
    """
    # novelty weighs the others by their rewards, +1 and -1
    count, size = groups.rollouts.shape
    reward_PG = groups.correct_PG.double() * 2 - 1
    true_PGG = torch.from_numpy(np.stack([gram_cosines(gram_GG) for gram_GG in grams[TOTAL]]))
    frame = pd.DataFrame(
        {
            "problem": [problem.id for problem in groups.rollouts.problems for _ in range(size)],
            "sample": list(range(size)) * count,
            "correct": groups.correct_PG.flatten().tolist(),
            "tokens": groups.rollouts.sequences.lengths_N.tolist(),
            "entropy": entropy_N.double().tolist(),
            "nu_phi": novelty(phi_PGG.double(), reward_PG, "squared").flatten().tolist(),
            "nu_true": novelty(true_PGG, reward_PG, "squared").flatten().tolist(),
        }
    )

    # the norm of a gradient is the root of its inner product with itself
    for name, gram_PGG in grams.items():
        frame[f"norm/{name}"] = np.sqrt(np.einsum("pgg->pg", gram_PGG)).ravel()
    return frame

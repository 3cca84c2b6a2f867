"""Similarities of two responses of a group that could predict the cosine of their true gradients.

phi        cosine of the gradient features Phi (g2rl.policy.lm_head)
entropy    -|H_i - H_j|, H the mean token entropy in nats
hidden     cosine of the mean last hidden state over the positions that predict response tokens
embedding  cosine of external embeddings of the texts
ngram      overlap of the sets of token n-grams, |A & B| / |A | B|
verdict    1 when both are right or both wrong, else 0
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from g2rl.analysis.groups import GradedGroups
from g2rl.engines.rollouts import grouped
from g2rl.exploration.encoders.encoder import Encoder
from g2rl.formulas.tensors import cosine_matrix
from g2rl.policy.batching import Sequences, make_micro_batch, plan_micro_batches
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScoreRequest, Scores, score

GRAM_LENGTHS = (1, 2, 3)


def absolute_gap(values_PG: Tensor) -> Tensor:
    """-|v_i - v_j|, (P, G, G): 0 is most alike."""
    return -(values_PG.unsqueeze(-1) - values_PG.unsqueeze(-2)).abs()


def grams(tokens: Sequence[int], lengths: Sequence[int] = GRAM_LENGTHS) -> set[tuple[int, ...]]:
    """The distinct n-grams of a token sequence."""
    return {tuple(tokens[i : i + n]) for n in lengths for i in range(len(tokens) - n + 1)}


def jaccard(groups: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Overlap of token n-grams (n = 1, 2, 3) within groups, (P, G, G); two empty responses have
    1."""
    found = []
    for group in groups:
        sets = [grams(tokens) for tokens in group]
        found.append([[len(a & b) / len(a | b) if a | b else 1.0 for b in sets] for a in sets])
    return torch.tensor(found)


@torch.no_grad()
def mean_hidden(policy: Policy, sequences: Sequences, token_budget: int) -> Tensor:
    """Mean last hidden state of each response over the positions that predict its tokens, (N, D)
    float32."""
    was_training = policy.training
    policy.eval()
    rows_of = [torch.empty(0)] * len(sequences)
    for rows in plan_micro_batches(sequences, range(len(sequences)), token_budget):
        batch = make_micro_batch(sequences, rows, policy.device)
        hidden_TD = policy.hidden(batch).float()
        sums_BD = hidden_TD.new_zeros(len(rows), hidden_TD.shape[1])
        sums_BD.index_add_(0, batch.segments_T, hidden_TD)
        sizes_B = torch.bincount(batch.segments_T, minlength=len(rows)).clamp_min(1)
        for n, row in zip(rows, sums_BD / sizes_B.unsqueeze(1), strict=True):
            rows_of[n] = row.cpu()
    policy.train(was_training)
    return torch.stack(rows_of)


def predictors(
    policy: Policy,
    groups: GradedGroups,
    *,
    temperature: float,
    feature_temperature: float | None,
    token_budget: int,
    encoder: Encoder | None,
) -> tuple[dict[str, Tensor], Scores]:
    """Every predictor of the head of this file as similarities (P, G, G), and the scores behind
    them.

    Args:
        temperature: of the token entropies, and of Phi unless `feature_temperature` is given.
        encoder: None leaves out "embedding".
    """
    rollouts = groups.rollouts
    shape, sequences = rollouts.shape, rollouts.sequences
    scores = score(
        policy,
        sequences,
        ScoreRequest(
            temperature=temperature,
            token_budget=token_budget,
            features=True,
            feature_temperature=feature_temperature,
        ),
    )
    assert scores.features_ND is not None
    hidden_ND = mean_hidden(policy, sequences, token_budget)
    tokens = [[completion.token_ids for completion in group] for group in rollouts.completions]
    right_PG = groups.correct_PG
    found = {
        "phi": cosine_matrix(grouped(scores.features_ND, shape))[0],
        "entropy": absolute_gap(grouped(scores.mean_entropy_N, shape)),
        "hidden": cosine_matrix(grouped(hidden_ND, shape))[0],
    }
    if encoder is not None:
        embeddings_NE = encoder.encode([completion.text for completion in rollouts.flat])
        found["embedding"] = cosine_matrix(grouped(embeddings_NE, shape))[0]
    found["ngram"] = jaccard(tokens)
    found["verdict"] = (right_PG.unsqueeze(-1) == right_PG.unsqueeze(-2)).float()
    return found, scores

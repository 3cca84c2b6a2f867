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
    distinct: set[tuple[int, ...]] = set()
    for length in lengths:
        for start in range(len(tokens) - length + 1):
            distinct.add(tuple(tokens[start : start + length]))
    return distinct


def jaccard(groups: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """Overlap |A & B| / |A | B| of token n-grams (n = 1, 2, 3) within groups, (P, G, G).

    Two empty responses have 1.
    """
    # the sets of a group are made once and compared pair by pair
    overlap_PGG = []
    for group in groups:
        sets = [grams(tokens) for tokens in group]
        overlap_PGG.append([[_overlap(a, b) for b in sets] for a in sets])
    return torch.tensor(overlap_PGG)


def _overlap(a: set[tuple[int, ...]], b: set[tuple[int, ...]]) -> float:
    union = a | b
    return len(a & b) / len(union) if union else 1.0


@torch.no_grad()
def mean_hidden(policy: Policy, sequences: Sequences, token_budget: int) -> Tensor:
    """Mean last hidden state of each response over the positions that predict its tokens.

    Args:
        policy: put into evaluation mode for the duration.
        token_budget: of a micro-batch.

    Returns:
        (N, D), float32 on the CPU.
    """
    # dropout would blur the states
    was_training = policy.training
    policy.eval()

    # micro-batches are sorted by length: rows go back to their places
    means: list[Tensor] = [torch.empty(0)] * len(sequences)
    for rows in plan_micro_batches(sequences, range(len(sequences)), token_budget):
        batch = make_micro_batch(sequences, rows, policy.device)
        hidden_TD = policy.hidden(batch).float()

        # sum by response, then divide by its length
        sums_BD = hidden_TD.new_zeros(len(rows), hidden_TD.shape[1])
        sums_BD.index_add_(0, batch.segments_T, hidden_TD)
        lengths_B = torch.bincount(batch.segments_T, minlength=len(rows)).clamp_min(1)
        for n, mean_D in zip(rows, sums_BD / lengths_B.unsqueeze(1), strict=True):
            means[n] = mean_D.cpu()
    policy.train(was_training)
    return torch.stack(means)


def predictors(
    policy: Policy,
    groups: GradedGroups,
    *,
    temperature: float,
    feature_temperature: float | None,
    token_budget: int,
    encoder: Encoder | None,
) -> tuple[dict[str, Tensor], Scores]:
    """Every predictor named in this file's docstring, (P, G, G) each, and the scores behind them.

    Args:
        temperature: of the token entropies, and of Phi unless `feature_temperature` is given.
        encoder: None leaves out "embedding".
    """
    rollouts = groups.rollouts
    shape, sequences = rollouts.shape, rollouts.sequences

    # two passes through the model: features with entropies, and hidden states
    request = ScoreRequest(
        temperature=temperature,
        token_budget=token_budget,
        features=True,
        feature_temperature=feature_temperature,
    )
    scores = score(policy, sequences, request)
    assert scores.features_ND is not None
    hidden_ND = mean_hidden(policy, sequences, token_budget)
    similarities = {
        "phi": cosine_matrix(grouped(scores.features_ND, shape))[0],
        "entropy": absolute_gap(grouped(scores.mean_entropy_N, shape)),
        "hidden": cosine_matrix(grouped(hidden_ND, shape))[0],
    }

    # what needs the texts, tokens and verdicts only
    if encoder is not None:
        embeddings_NE = encoder.encode([completion.text for completion in rollouts.flat])
        similarities["embedding"] = cosine_matrix(grouped(embeddings_NE, shape))[0]
    tokens = [[completion.token_ids for completion in group] for group in rollouts.completions]
    similarities["ngram"] = jaccard(tokens)
    correct_PG = groups.correct_PG
    similarities["verdict"] = (correct_PG.unsqueeze(-1) == correct_PG.unsqueeze(-2)).float()
    return similarities, scores

"""Gradient geometry as tables: per response in training, per pair in the before/after probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from g2rl.formulas.tensors import cosine_matrix
from g2rl.policy.batching import Sequences
from g2rl.types import GroupBatch, Shaped

if TYPE_CHECKING:  # figures need this module, and not the model library behind that one
    from g2rl.evaluation.evaluate import EvalResult

PAIR_CLASSES = ("wrong-wrong", "correct-wrong", "correct-correct")  # index: number of correct members


def geometry_table(
    step: int, problems: list[str], batch: GroupBatch, shaped: Shaped, advantages_PG: Tensor
) -> dict[str, list[Any]]:
    """Columns of the geometry file, one row a response; `cosine` is its row of S in the group."""
    count, group = batch.rewards_PG.shape
    columns: dict[str, list[Any]] = {
        "step": [step] * (count * group),
        "problem": [problem for problem in problems for _ in range(group)],
        "sample": list(range(group)) * count,
        "correct": batch.correct_PG.flatten().tolist(),
        "reward": batch.rewards_PG.flatten().tolist(),
        "shaped_reward": shaped.rewards_PG.flatten().tolist(),
        "advantage": advantages_PG.flatten().tolist(),
        "tokens": batch.lengths_PG.flatten().tolist(),
    }
    if batch.entropy_PG is not None:
        columns["entropy"] = batch.entropy_PG.flatten().tolist()
    for name, values_PG in shaped.diagnostics.items():
        columns[name] = values_PG.flatten().tolist()
    if batch.features_PGD is not None:
        columns["feature_norm"] = batch.features_PGD.norm(dim=-1).flatten().tolist()
        columns["cosine"] = cosine_matrix(batch.features_PGD)[0].flatten(0, 1).tolist()
    return columns


def probe_sequences(result: EvalResult, problems: int, samples: int) -> tuple[Sequences, Tensor]:
    """The first `samples` responses to the first `problems` problems, and their verdicts (P, G)."""
    prompts: list[list[int]] = []
    responses: list[list[int]] = []
    correct: list[list[bool]] = []
    for prompt, completions, verdicts in list(
        zip(result.prompts, result.completions, result.verdicts, strict=True)
    )[:problems]:
        prompts.extend([prompt] * len(completions[:samples]))
        responses.extend(completion.token_ids for completion in completions[:samples])
        correct.append([verdict.correct for verdict in verdicts[:samples]])
    return Sequences(prompts, responses), torch.tensor(correct)


def probe_table(cosine_PGG: Tensor, correct_PG: Tensor) -> tuple[dict[str, list[Any]], dict[str, float]]:
    """Pairs i < j of every group: their cosine and class; and mean cosine and negative share by class."""
    count, group, _ = cosine_PGG.shape
    first, second = torch.triu_indices(group, group, offset=1)
    pairs = cosine_PGG[:, first, second]
    right = correct_PG[:, first].long() + correct_PG[:, second].long()
    problem = torch.arange(count).unsqueeze(1).expand_as(pairs)
    columns: dict[str, list[Any]] = {
        "problem": problem.flatten().tolist(),
        "first": first.repeat(count).tolist(),
        "second": second.repeat(count).tolist(),
        "cosine": pairs.flatten().tolist(),
        "pair": [PAIR_CLASSES[k] for k in right.flatten().tolist()],
    }
    metrics: dict[str, float] = {}
    for label, chosen in [
        ("", pairs),
        *((f"_{name.replace('-', '_')}", pairs[right == k]) for k, name in enumerate(PAIR_CLASSES)),
    ]:
        if chosen.numel():
            metrics[f"cosine{label}"] = chosen.mean().item()
            metrics[f"negative_pairs{label}"] = (chosen < 0).float().mean().item()
    return columns, metrics

"""Columns of the tables that a training step writes: one row a response."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from g2rl.engines.rollouts import Rollouts
from g2rl.formulas.tensors import cosine_matrix
from g2rl.types import GroupBatch, Shaped, Verdict

ROLLOUT_COLUMNS = (
    "problem",
    "sample",
    "prompt",
    "gold",
    "completion",
    "answer",
    "correct",
    "route",
    "tokens",
    "finish",
)


def rollout_table(rollouts: Rollouts, verdicts: list[Verdict]) -> dict[str, list[object]]:
    """Columns of the rollouts file, one row a response; lone surrogates are replaced."""
    _, group_size = rollouts.shape
    columns: dict[str, list[object]] = {name: [] for name in ROLLOUT_COLUMNS}
    for n, (completion, verdict) in enumerate(zip(rollouts.flat, verdicts, strict=True)):
        problem = rollouts.problems[n // group_size]
        row = {
            "problem": problem.id,
            "sample": n % group_size,
            "prompt": storable(problem.prompt),
            "gold": storable(problem.answer),
            "completion": storable(completion.text),
            "answer": None if verdict.answer is None else storable(verdict.answer),
            "correct": verdict.correct,
            "route": verdict.route,
            "tokens": len(completion.token_ids),
            "finish": completion.finish,
        }
        for name, value in row.items():
            columns[name].append(value)
    return columns


def storable(text: str) -> str:
    """Text that can be written as UTF-8: lone surrogates, which a model may write, are replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")


def geometry_table(
    step: int, problems: list[str], batch: GroupBatch, shaped: Shaped, advantages_PG: Tensor
) -> dict[str, list[Any]]:
    """Columns of the geometry file, one row a response; `cosine` is its row of S in the group."""
    # what every step has
    prompt_count, group_size = batch.rewards_PG.shape
    problem_of_row: list[str] = []
    for problem in problems:
        problem_of_row += [problem] * group_size
    columns: dict[str, list[Any]] = {
        "step": [step] * len(problem_of_row),
        "problem": problem_of_row,
        "sample": list(range(group_size)) * prompt_count,
        "correct": batch.correct_PG.flatten().tolist(),
        "reward": batch.rewards_PG.flatten().tolist(),
        "shaped_reward": shaped.rewards_PG.flatten().tolist(),
        "advantage": advantages_PG.flatten().tolist(),
        "tokens": batch.lengths_PG.flatten().tolist(),
    }

    # what only some signals look at
    if batch.entropy_PG is not None:
        columns["entropy"] = batch.entropy_PG.flatten().tolist()
    for name, values_PG in shaped.diagnostics.items():
        columns[name] = values_PG.flatten().tolist()
    if batch.features_PGD is not None:
        columns["feature_norm"] = batch.features_PGD.norm(dim=-1).flatten().tolist()
        columns["cosine"] = cosine_matrix(batch.features_PGD)[0].flatten(0, 1).tolist()
    return columns

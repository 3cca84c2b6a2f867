"""The tables that a training step writes; `g2rl.runs.columns` describes each column."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from g2rl.engines.rollouts import Rollouts
from g2rl.formulas.tensors import cosine_matrix
from g2rl.runs.columns import ROLLOUTS
from g2rl.types import GroupBatch, Shaped, Verdict

ROLLOUT_COLUMNS = tuple(ROLLOUTS.names)


def rollout_table(rollouts: Rollouts, verdicts: list[Verdict]) -> dict[str, list[object]]:
    """The columns `ROLLOUT_COLUMNS` of a step: what was asked, written and judged.

    Args:
        rollouts: the responses of P groups of G.
        verdicts: one for each response, in the same order, prompt-major.

    Returns:
        Columns of P * G values. Texts can be written as UTF-8, see `storable`.
    """
    _, group_size = rollouts.shape

    # row by row, because most values come from objects
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
    """The text with lone surrogates replaced, which a model may write and UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def geometry_table(
    step: int, problems: list[str], batch: GroupBatch, shaped: Shaped, advantages_PG: Tensor
) -> dict[str, list[Any]]:
    """The columns of a step that show what its signal and its gradients did.

    Args:
        step: the training step.
        problems: ids of the P problems.
        batch: of P groups of G responses.
        shaped: what the signal made of the rewards; each of its diagnostics becomes a column.
        advantages_PG: (P, G).

    Returns:
        Columns of P * G values. With gradient features, `cosine` holds for each response its row of
        the cosine matrix (G, G) of the group, and `first_alike` is the place of the first response
        of the group with the same tokens.
    """
    # rows are prompt-major, like flattened tensors
    prompt_count, group_size = batch.rewards_PG.shape
    problem_of_row: list[str] = []
    for problem in problems:
        problem_of_row += [problem] * group_size

    # what every step has
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

    # what only some signals need or make
    if batch.entropy_PG is not None:
        columns["entropy"] = batch.entropy_PG.flatten().tolist()
    for name, values_PG in shaped.diagnostics.items():
        columns[name] = values_PG.flatten().tolist()
    if batch.features_PGD is not None:
        if batch.first_alike_PG is not None:
            columns["first_alike"] = batch.first_alike_PG.flatten().tolist()
        columns["feature_norm"] = batch.features_PGD.norm(dim=-1).flatten().tolist()
        columns["cosine"] = cosine_matrix(batch.features_PGD)[0].flatten(0, 1).tolist()
    return columns

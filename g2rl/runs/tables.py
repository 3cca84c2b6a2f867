"""TODO docstring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from g2rl.engines.rollouts import Rollouts
from g2rl.formulas.tensors import cosine_matrix
from g2rl.types import GroupBatch, Shaped, Verdict

if TYPE_CHECKING:  # figures need this module, and not the model library behind that one
    pass


def rollout_table(rollouts: Rollouts, verdicts: list[Verdict]) -> dict[str, list[object]]:
    """Columns of the rollouts file, one row a response; lone surrogates are replaced."""
    count, group = rollouts.shape
    flat = rollouts.flat
    return {
        "problem": [rollouts.problems[n // group].id for n in range(count * group)],
        "sample": [n % group for n in range(count * group)],
        "prompt": [storable(rollouts.problems[n // group].prompt) for n in range(count * group)],
        "gold": [storable(rollouts.problems[n // group].answer) for n in range(count * group)],
        "completion": [storable(c.text) for c in flat],
        "answer": [None if v.answer is None else storable(v.answer) for v in verdicts],
        "correct": [v.correct for v in verdicts],
        "route": [v.route for v in verdicts],
        "tokens": [len(c.token_ids) for c in flat],
        "finish": [c.finish for c in flat],
    }


def storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


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

"""Numbers that have gone bad: how they are recognised, and what is left behind for inspection.

When a run stops over them it writes `RUN/failure/step_000012/`: tensors.safetensors (features, rewards,
advantages, log-probabilities, ... of the step) and report.json (what, step, groups, problems, texts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from g2rl.runs.files import atomic_folder, write_json
from g2rl.types import GroupBatch

WATCHED = ("features_PGD", "embeddings_PGE", "entropy_PG")


class BadNumbersError(RuntimeError):
    """Numbers are not finite, and the run cannot go on.

    Args:
        groups: the prompts of the step in whose groups they are.
        tensors: what was being computed.
    """

    def __init__(
        self, message: str, groups: Sequence[int] = (), tensors: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__(message)
        self.groups, self.tensors = list(groups), dict(tensors or {})


class NonFiniteError(BadNumbersError):
    """A signal gave a reward that is not finite."""


def bad_rows(values_PG: Tensor) -> list[int]:
    """Groups that hold a number which is not finite; the first axis is P."""
    return (~torch.isfinite(values_PG)).flatten(1).any(1).nonzero().flatten().tolist()


def bad_groups(batch: GroupBatch) -> dict[str, list[int]]:
    """Field name to the groups in which it is not finite, for fields that a signal may look at."""
    values = {name: getattr(batch, name) for name in WATCHED}
    found = {name: bad_rows(value) for name, value in values.items() if value is not None}
    return {name: groups for name, groups in found.items() if groups}


def tensors_of(batch: GroupBatch) -> dict[str, Tensor]:
    """The tensors of a batch by field name."""
    names = ("rewards_PG", "correct_PG", "lengths_PG", *WATCHED)
    return {name: value for name in names if (value := getattr(batch, name)) is not None}


def save_failure(
    run_dir: Path,
    step: int,
    error: BadNumbersError,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> Path:
    """Write the failure of one step; returns its folder."""
    place = run_dir / "failure" / f"step_{step:06d}"
    with atomic_folder(place) as folder:
        every = {**tensors, **error.tensors}
        save_file(
            {name: t.detach().cpu().contiguous().clone() for name, t in every.items()},
            folder / "tensors.safetensors",
        )
        report = {"step": step, "error": str(error), "groups": error.groups, **facts}
        write_json(folder / "report.json", report)
    return place

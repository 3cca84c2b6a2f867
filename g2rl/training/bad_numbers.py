"""Numbers that are not finite: how they are recognised, and what is left behind for inspection.

A run that stops over them writes `RUN/failure/step_000012/`. There, tensors.safetensors holds the
features, rewards, advantages and log-probabilities of the step, and report.json says what happened
in which groups, with the problems and texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from g2rl.runs.files import atomic_folder, write_json
from g2rl.runs.layout import RunFolder, step_name
from g2rl.types import GroupBatch


class BadNumbersError(RuntimeError):
    """Numbers are not finite, and the run cannot go on.

    Args:
        message: what happened, and where.
        groups: the prompts of the step in whose groups the numbers are.
        tensors: what was being computed, by name.
    """

    def __init__(
        self,
        message: str,
        groups: Sequence[int] = (),
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(message)
        self.groups, self.tensors = list(groups), dict(tensors or {})


class NonFiniteError(BadNumbersError):
    """A signal gave a reward that is not finite."""


def bad_rows(values_PG: Tensor) -> list[int]:
    """Groups that hold a number which is not finite; the first axis is P, others may follow."""
    bad_P = (~torch.isfinite(values_PG)).flatten(1).any(1)
    return bad_P.nonzero().flatten().tolist()


def bad_groups(batch: GroupBatch) -> dict[str, list[int]]:
    """Name of each field that a signal may look at, to the groups in which it is not finite.

    Fields that are finite everywhere, or not there, are left out.
    """
    # fields that nothing asked for are None
    fields = {
        "features_PGD": batch.features_PGD,
        "embeddings_PGE": batch.embeddings_PGE,
        "entropy_PG": batch.entropy_PG,
        "logp_sum_PG": batch.logp_sum_PG,
        "hidden_PGD": batch.hidden_PGD,
        "reference_hidden_PGD": batch.reference_hidden_PGD,
    }
    groups_by_field: dict[str, list[int]] = {}
    for name, values in fields.items():
        groups = [] if values is None else bad_rows(values)
        if groups:
            groups_by_field[name] = groups
    return groups_by_field


def save_failure(
    run_dir: Path,
    step: int,
    error: BadNumbersError,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> Path:
    """Write what is known of a failed step.

    Args:
        run_dir: the run's folder.
        step: the training step.
        error: what stopped the run; its own tensors are saved as well.
        tensors: the step's tensors by name.
        facts: plain data for report.json.

    Returns:
        The folder that was written.
    """
    place = RunFolder(run_dir).failure / step_name(step)

    # a file of tensors takes them from the CPU, and none may share memory with another
    plain_tensors: dict[str, Tensor] = {}
    for name, tensor in {**tensors, **error.tensors}.items():
        plain_tensors[name] = tensor.detach().cpu().contiguous().clone()

    # tensors and report appear together or not at all
    with atomic_folder(place) as folder:
        save_file(plain_tensors, folder / "tensors.safetensors")
        report = {"step": step, "error": str(error), "groups": error.groups, **facts}
        write_json(folder / "report.json", report)
    return place

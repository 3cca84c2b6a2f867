"""Gradient geometry as tables: per response in training, per pair in the before/after probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # figures need this module, and not the model library behind that one
    pass

PAIR_CLASSES = (
    "wrong-wrong",
    "correct-wrong",
    "correct-correct",
)  # index: number of correct members


def probe_table(
    cosine_PGG: Tensor, correct_PG: Tensor
) -> tuple[dict[str, list[Any]], dict[str, float]]:
    """Pairs i < j of every group: their cosine and class; and mean cosine and negative share by
    class."""
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

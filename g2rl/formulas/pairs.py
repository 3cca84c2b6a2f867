"""Pairs of responses of one group: which there are, and which class each is in.

A pair i < j is *correct-correct*, *correct-wrong* or *wrong-wrong*. Everything that counts pairs by class or
names the classes takes both from here. Importing this module loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

WRONG_WRONG, CORRECT_WRONG, CORRECT_CORRECT = "wrong-wrong", "correct-wrong", "correct-correct"
PAIR_CLASSES = (WRONG_WRONG, CORRECT_WRONG, CORRECT_CORRECT)
"""The classes; the index of a class is the number of correct members of its pairs."""
ALL_PAIRS = "all"
"""Stands for the pairs of every class in tables."""


def metric_suffix(pair_class: str) -> str:
    """What a class appends to the name of a metric: ``_correct_wrong``; "" for all pairs."""
    return "" if pair_class == ALL_PAIRS else f"_{pair_class.replace('-', '_')}"


def pair_values(values_PGG: Tensor) -> Tensor:
    """The values of the pairs i < j of each group, row by row of the upper triangle.

    Args:
        values_PGG: one symmetric (G, G) matrix a group.

    Returns:
        (P, G (G - 1) / 2).
    """
    import torch

    # row by row of the upper triangle
    group_size = values_PGG.shape[-1]
    first, second = torch.triu_indices(group_size, group_size, offset=1)
    return values_PGG[:, first, second]


def correct_members(correct_PG: Tensor) -> Tensor:
    """Number of correct members of each pair, in the order of `pair_values`: an index of `PAIR_CLASSES`.

    Args:
        correct_PG: boolean verdicts.

    Returns:
        (P, G (G - 1) / 2) int64.
    """
    import torch

    group_size = correct_PG.shape[-1]
    first, second = torch.triu_indices(group_size, group_size, offset=1)
    return correct_PG[:, first].long() + correct_PG[:, second].long()


def pairs_by_class(values_PGG: Tensor, correct_PG: Tensor) -> dict[str, Tensor]:
    """The pairs of all groups together, and of each class.

    Args:
        values_PGG: one symmetric (G, G) matrix a group, say of cosines.
        correct_PG: boolean verdicts.

    Returns:
        ``ALL_PAIRS`` and the classes that have a pair, each to a flat tensor of the values of its pairs.
    """
    # all pairs, then class by class
    values = pair_values(values_PGG).flatten()
    member_counts = correct_members(correct_PG).flatten()
    values_of_class = {ALL_PAIRS: values}
    for count, name in reversed(list(enumerate(PAIR_CLASSES))):
        values_of_class[name] = values[member_counts == count]
    return {name: chosen for name, chosen in values_of_class.items() if chosen.numel()}


def cosine_metrics(cosine_PGG: Tensor, correct_PG: Tensor) -> dict[str, float]:
    """Mean cosine and share of negative pairs, over all pairs and by class.

    Returns:
        ``cosine``, ``negative_pairs``, ``cosine_correct_correct``, ...; a class without a pair is left out.
    """
    metrics: dict[str, float] = {}
    for name, cosines in pairs_by_class(cosine_PGG, correct_PG).items():
        metrics[f"cosine{metric_suffix(name)}"] = cosines.mean().item()
        metrics[f"negative_pairs{metric_suffix(name)}"] = (cosines < 0).float().mean().item()
    return metrics


def pair_table(cosine_PGG: Tensor, correct_PG: Tensor) -> dict[str, list[Any]]:
    """One row a pair i < j of every group.

    Returns:
        Columns problem (the group's number), first, second, cosine and pair (the class).
    """
    import torch

    group_count, group_size, _ = cosine_PGG.shape
    first, second = torch.triu_indices(group_size, group_size, offset=1)

    # which group, and which class, each pair is of
    cosines = pair_values(cosine_PGG)
    problem = torch.arange(group_count).unsqueeze(1).expand_as(cosines)
    classes = [PAIR_CLASSES[count] for count in correct_members(correct_PG).flatten().tolist()]
    return {
        "problem": problem.flatten().tolist(),
        "first": first.repeat(group_count).tolist(),
        "second": second.repeat(group_count).tolist(),
        "cosine": cosines.flatten().tolist(),
        "pair": classes,
    }

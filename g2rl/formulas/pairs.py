"""Pairs of responses of one group: which pairs there are, and which class each belongs to.

A pair i < j is *correct-correct*, *correct-wrong* or *wrong-wrong*. Everything that counts pairs by
class, or names the classes, takes both from here. The functions take torch tensors and numpy arrays
alike, so importing this module loads neither library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

# a tensor or an array; functions return what they were given
Array = TypeVar("Array", "Tensor", "np.ndarray")

WRONG_WRONG, CORRECT_WRONG, CORRECT_CORRECT = "wrong-wrong", "correct-wrong", "correct-correct"
PAIR_CLASSES = (WRONG_WRONG, CORRECT_WRONG, CORRECT_CORRECT)
"""The classes; the index of a class is the number of correct members of its pairs."""
ALL_PAIRS = "all"
"""Stands for the pairs of every class in tables."""
SHOWN_CLASSES = (ALL_PAIRS, CORRECT_CORRECT, CORRECT_WRONG, WRONG_WRONG)
"""The order in which metrics, tables and figures list them."""


def metric_suffix(pair_class: str) -> str:
    """What a class appends to the name of a metric: ``_correct_wrong``; "" for all pairs."""
    if pair_class == ALL_PAIRS:
        return ""
    return f"_{pair_class.replace('-', '_')}"


def pair_indices(group_size: int) -> tuple[Any, Any]:
    """First and second member of the pairs i < j, row by row of the upper triangle.

    Returns:
        Two integer arrays (G (G - 1) / 2,).
    """
    import numpy as np

    first, second = np.triu_indices(group_size, k=1)
    return first, second


def pair_values(values_PGG: Array) -> Array:
    """The values of the pairs i < j of each group, in the order of `pair_indices`.

    Args:
        values_PGG: one symmetric (G, G) matrix a group, or a single one without the axis P.

    Returns:
        (P, G (G - 1) / 2), or (G (G - 1) / 2,).
    """
    first, second = pair_indices(values_PGG.shape[-1])
    return values_PGG[..., first, second]


def correct_members(correct_PG: Array) -> Array:
    """Number of correct members of each pair, which is the index of its class in `PAIR_CLASSES`.

    Args:
        correct_PG: boolean verdicts, (P, G), or (G,) of a single group.

    Returns:
        Integers 0 to 2 in the shape and order of `pair_values`.
    """
    first, second = pair_indices(correct_PG.shape[-1])
    # the sum of two booleans would be a boolean
    return 1 * correct_PG[..., first] + 1 * correct_PG[..., second]


def pairs_by_class(values_PGG: Array, correct_PG: Array) -> dict[str, Array]:
    """The values of all pairs together, and of the pairs of each class.

    Args:
        values_PGG: one symmetric (G, G) matrix a group, for example of cosines.
        correct_PG: boolean verdicts. A single group may come without the axis P.

    Returns:
        The flat values by name, in the order of `SHOWN_CLASSES`; a class without a pair is absent.
    """
    # one flat list over all groups
    values = pair_values(values_PGG).flatten()
    member_counts = correct_members(correct_PG).flatten()

    # a class without a pair has no mean, so it is left out
    values_of_class: dict[str, Array] = {}
    for name in SHOWN_CLASSES:
        if name == ALL_PAIRS:
            class_values = values
        else:
            class_values = values[member_counts == PAIR_CLASSES.index(name)]
        if len(class_values):
            values_of_class[name] = class_values
    return values_of_class


def cosine_metrics(cosine_PGG: Tensor, correct_PG: Tensor) -> dict[str, float]:
    """Mean cosine and share of negative cosines, over all pairs and by class.

    Args:
        cosine_PGG: cosines of the responses of each group, such as Eq. 9 of arXiv 2512.15687.
        correct_PG: boolean verdicts.

    Returns:
        ``cosine``, ``negative_pairs``, ``cosine_correct_correct``, ...; a class without a pair is
        absent.
    """
    metrics: dict[str, float] = {}
    for name, cosines in pairs_by_class(cosine_PGG, correct_PG).items():
        suffix = metric_suffix(name)
        metrics[f"cosine{suffix}"] = cosines.mean().item()
        metrics[f"negative_pairs{suffix}"] = (cosines < 0).float().mean().item()
    return metrics


def pair_table(cosine_PGG: Tensor, correct_PG: Tensor) -> dict[str, list[Any]]:
    """One row for each pair i < j of every group, as columns.

    Returns:
        problem (the group's number), first and second (places in the group), cosine, and pair (the
        class).
    """
    group_count, group_size, _ = cosine_PGG.shape
    first, second = pair_indices(group_size)
    member_counts = correct_members(correct_PG).flatten().tolist()

    # group by group, like the flattened values
    problem: list[int] = []
    for group in range(group_count):
        problem += [group] * len(first)
    return {
        "problem": problem,
        "first": first.tolist() * group_count,
        "second": second.tolist() * group_count,
        "cosine": pair_values(cosine_PGG).flatten().tolist(),
        "pair": [PAIR_CLASSES[count] for count in member_counts],
    }

"""Pairs and their classes, against plain loops over i < j."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from g2rl.formulas.pairs import (
    ALL_PAIRS,
    CORRECT_CORRECT,
    CORRECT_WRONG,
    PAIR_CLASSES,
    SHOWN_CLASSES,
    WRONG_WRONG,
    cosine_metrics,
    metric_suffix,
    pair_table,
    pairs_by_class,
)


def groups(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Five groups of six: symmetric values, and verdicts among which all classes occur."""
    generator = torch.Generator().manual_seed(seed)
    values_PGG = torch.randn(5, 6, 6, generator=generator)
    return values_PGG + values_PGG.mT, torch.rand(5, 6, generator=generator) < 0.5


def by_loops(values_PGG: Tensor, correct_PG: Tensor) -> dict[str, list[float]]:
    values_of_class: dict[str, list[float]] = {name: [] for name in SHOWN_CLASSES}
    group_size = correct_PG.shape[1]
    for values_GG, correct_G in zip(values_PGG.tolist(), correct_PG.tolist(), strict=True):
        for i in range(group_size):
            for j in range(i + 1, group_size):
                if correct_G[i] and correct_G[j]:
                    name = CORRECT_CORRECT
                elif correct_G[i] or correct_G[j]:
                    name = CORRECT_WRONG
                else:
                    name = WRONG_WRONG
                values_of_class[ALL_PAIRS].append(values_GG[i][j])
                values_of_class[name].append(values_GG[i][j])
    return values_of_class


def test_pairs_by_class_are_those_of_plain_loops_for_tensors_and_arrays() -> None:
    values_PGG, correct_PG = groups()
    expected = by_loops(values_PGG, correct_PG)
    found = pairs_by_class(values_PGG, correct_PG)
    assert {name: values.tolist() for name, values in found.items()} == expected
    assert tuple(found) == SHOWN_CLASSES
    arrays = pairs_by_class(values_PGG.numpy(), correct_PG.numpy())
    assert {name: values.tolist() for name, values in arrays.items()} == expected
    first = pairs_by_class(values_PGG[0], correct_PG[0])
    of_first = by_loops(values_PGG[:1], correct_PG[:1])
    assert {name: values.tolist() for name, values in first.items()} == {
        name: values for name, values in of_first.items() if values
    }


def test_the_table_lists_the_same_pairs() -> None:
    values_PGG, correct_PG = groups(1)
    table = pair_table(values_PGG, correct_PG)
    expected = by_loops(values_PGG, correct_PG)
    assert table["cosine"] == expected[ALL_PAIRS]
    rows = list(zip(table["cosine"], table["pair"], strict=True))
    for name in PAIR_CLASSES:
        assert [cosine for cosine, pair in rows if pair == name] == expected[name]
    places = zip(table["problem"], table["first"], table["second"], strict=True)
    assert list(places) == [(p, i, j) for p in range(5) for i in range(6) for j in range(i + 1, 6)]


def test_metrics_are_means_and_negative_shares() -> None:
    values_PGG, correct_PG = groups(2)
    metrics = cosine_metrics(values_PGG, correct_PG)
    for name, values in by_loops(values_PGG, correct_PG).items():
        suffix = metric_suffix(name)
        mean = math.fsum(values) / len(values)
        assert metrics.pop(f"cosine{suffix}") == pytest.approx(mean, abs=1e-6)
        negative = sum(value < 0 for value in values) / len(values)
        assert metrics.pop(f"negative_pairs{suffix}") == pytest.approx(negative)
    assert not metrics


def test_a_class_without_a_pair_is_absent_and_a_single_response_has_no_pair() -> None:
    cosine_PGG = torch.eye(2).expand(3, 2, 2)
    assert list(pairs_by_class(cosine_PGG, torch.ones(3, 2, dtype=torch.bool))) == [
        ALL_PAIRS,
        CORRECT_CORRECT,
    ]
    assert cosine_metrics(torch.ones(3, 1, 1), torch.ones(3, 1, dtype=torch.bool)) == {}
    assert pairs_by_class(np.ones((1, 1)), np.ones(1, dtype=bool)) == {}


def test_the_index_of_a_class_is_its_number_of_correct_members() -> None:
    assert [name.count("correct") for name in PAIR_CLASSES] == [0, 1, 2]
    assert [metric_suffix(name) for name in SHOWN_CLASSES] == [
        "",
        "_correct_correct",
        "_correct_wrong",
        "_wrong_wrong",
    ]

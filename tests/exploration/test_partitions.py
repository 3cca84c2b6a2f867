"""Partitions of hand-made groups, and single linkage against union-find."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from g2rl.exploration.partitions import (
    MAX_CHARACTERS,
    ByAnswer,
    ByEmbedding,
    ByExpression,
    ByNgrams,
    ByOperators,
    cluster_sizes,
    linked,
    partition_metrics,
)
from g2rl.types import GroupBatch


def batch(
    texts: list[str] | None = None, answers: list[str | None] | None = None, count: int = 0
) -> GroupBatch:
    size = count or len(texts or answers or [])
    return GroupBatch(
        rewards_PG=-torch.ones(1, size),
        correct_PG=torch.zeros(1, size, dtype=torch.bool),
        lengths_PG=torch.ones(1, size, dtype=torch.int64),
        texts=None if texts is None else [texts],
        answers=None if answers is None else [answers],
    )


def clusters(partition_PG: Tensor) -> list[list[int]]:
    """The members of each cluster of the only group, in order."""
    numbers = partition_PG[0].tolist()
    return [[i for i, n in enumerate(numbers) if n == m] for m in dict.fromkeys(numbers)]


def test_equal_keys_are_one_answer_and_unreadable_ones_share_a_cluster() -> None:
    given = batch(answers=["1/2", None, "0.5", "3", None])
    assert clusters(ByAnswer()(given)) == [[0], [1, 4], [2], [3]]
    given.answer_keys = [["1/2", None, "1/2", "3", None]]
    assert clusters(ByAnswer()(given)) == [[0, 2], [1, 4], [3]]


def test_expressions_are_compared_up_to_order() -> None:
    given = batch(answers=["3 + 4 * 2", "2 \\times 4 + 3", "(3 + 4) * 2", "eleven", "eleven", None])
    assert clusters(ByExpression()(given)) == [[0, 1], [2], [3, 4], [5]]


def test_a_style_is_the_multiset_of_signs() -> None:
    given = batch(["3 + 4 * 2 = 11", "2 \u00d7 4 = 8, 8 + 3", "7 - 4", "9 \u2212 1", "words"])
    assert clusters(ByOperators()(given)) == [[0, 1], [2, 3], [4]]


def test_texts_that_share_bigrams_are_linked_by_chains() -> None:
    # bigrams {ab, bc}, {bc, cd}, {cd, de}: neighbours share 1 of 3, the ends nothing
    given = batch(["a b c", "b c d", "c d e", "x y", "y", "y", "", " "])
    assert clusters(ByNgrams(2, 0.3)(given)) == [[0, 1, 2], [3], [4, 5], [6, 7]]
    assert clusters(ByNgrams(2, 0.34)(given)) == [[0], [1], [2], [3], [4, 5], [6, 7]]


def test_embeddings_are_linked_above_the_threshold_and_empty_ones_with_each_other() -> None:
    given = batch(count=5)
    given.embeddings_PGE = torch.tensor([[[1.0, 0], [2, 0.1], [0, 1], [0, 0], [0, 0]]])
    assert clusters(ByEmbedding(0.9)(given)) == [[0, 1], [2], [3, 4]]
    assert clusters(ByEmbedding(0.999)(given)) == [[0], [1], [2], [3, 4]]


def test_linkage_is_that_of_union_find() -> None:
    rng = torch.Generator().manual_seed(0)
    for size in (1, 2, 3, 9, 16):
        similar_PGG = torch.rand(50, size, size, generator=rng) < 1.0 / size
        labels_PG = linked(similar_PGG)
        for p in range(50):
            parent = list(range(size))

            def root(i: int, parent: list[int] = parent) -> int:
                while parent[i] != i:
                    i = parent[i]
                return i

            for i in range(size):
                for j in range(size):
                    if similar_PGG[p, i, j]:
                        parent[max(root(i), root(j))] = min(root(i), root(j))
            assert labels_PG[p].tolist() == [root(i) for i in range(size)]


def test_sizes_and_metrics() -> None:
    partition_PG = torch.tensor([[0, 0, 2, 0], [5, 6, 7, 8]])
    assert cluster_sizes(partition_PG).tolist() == [[3, 3, 1, 3], [1, 1, 1, 1]]
    assert partition_metrics(partition_PG) == {"clusters": 3.0, "largest_cluster": 0.5}


def test_hostile_texts_are_cut() -> None:
    long_text = "+ " * MAX_CHARACTERS
    for partitioner in (ByOperators(), ByNgrams()):
        assert clusters(partitioner(batch([long_text, long_text + "9 * 9", "*"]))) == [[0, 1], [2]]


@pytest.mark.parametrize(
    ("partitioner", "words"),
    [
        (ByAnswer(), "answers"),
        (ByExpression(), "answers"),
        (ByOperators(), "texts"),
        (ByNgrams(), "texts"),
        (ByEmbedding(), "embeddings"),
    ],
)
def test_a_batch_without_what_is_needed_is_refused(partitioner: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        partitioner(batch(count=2))


def test_settings_out_of_range_are_refused() -> None:
    for make in (lambda: ByNgrams(0), lambda: ByNgrams(2, 1.0), lambda: ByEmbedding(1.0)):
        with pytest.raises(ValueError, match="partition"):
            make()

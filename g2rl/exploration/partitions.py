"""Partitions: which responses of a group count as the same.

A partitioner gives every response a number; equal numbers within a group mean the same cluster.
Signals that pay the rare (`darling`, `uniqueness`, `poly_epo`) look at these numbers alone, so the
notion of sameness is chosen beside them with `partition=NAME`:

    ByAnswer       the same final answer, by the verifier's normal form
    ByExpression   the same arithmetic expression up to commutativity and associativity
    ByOperators    the same style: the same arithmetic signs, equally often
    ByNgrams       single linkage of texts that share word n-grams
    ByEmbedding    single linkage of texts whose embeddings are alike

Two traps. A partition so fine that every response is alone, or so coarse that all are one, makes
most of these signals plain GRPO; the metrics `explore/clusters` and `explore/largest_cluster` show
it. And single linkage chains: a is like b and b like c, so a and c share a cluster.

Texts are hostile: they are cut at `MAX_CHARACTERS`, and nothing is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from g2rl.exploration.signal import missing_need
from g2rl.formulas.tensors import cosine_matrix
from g2rl.tasks.countdown_grammar import GrammarError, parse
from g2rl.types import GroupBatch

MAX_CHARACTERS = 20_000
"""What follows in a text is not looked at."""
OPERATORS = "+-*/^="
"""The signs that make a style."""

# other spellings of the signs, and words with their marks
_SPELLINGS = {
    "\\times": "*",
    "\\cdot": "*",
    "\\div": "/",
    "\\frac": "/",
    "\u00d7": "*",
    "\u00f7": "/",
    "\u2212": "-",
}
_WORD = re.compile(r"\w+|[^\w\s]")


class Partitioner(Protocol):
    """Says which responses of each group count as the same."""

    name: str
    """As in partition=NAME."""
    needs: frozenset[str]
    """What it looks at, part of `g2rl.exploration.signal.NEEDS`."""

    def __call__(self, batch: GroupBatch) -> Tensor:
        """Cluster numbers (P, G), int64; only equality inside a group means anything."""
        ...


# --- by a label of each response


def labelled(labels: Sequence[Sequence[Hashable]]) -> Tensor:
    """Cluster numbers of labels: each response gets the place where its label stands first.

    Args:
        labels: P lists of G.

    Returns:
        (P, G) int64.
    """
    rows: list[list[int]] = []
    for group in labels:
        # the place where each label stands first
        first_place: dict[Hashable, int] = {}
        for place, label in enumerate(group):
            first_place.setdefault(label, place)
        rows.append([first_place[label] for label in group])
    return torch.tensor(rows, dtype=torch.int64)


def keys_of(batch: GroupBatch, asker: str) -> list[list[str | None]]:
    """Normal forms of the answers, P lists of G; None for a response without a readable answer.

    Args:
        batch: a batch with answers.
        asker: named in the error.

    Raises:
        ValueError: the batch carries no answers.
    """
    keys = batch.answer_keys if batch.answer_keys is not None else batch.answers
    if keys is None:
        raise missing_need(asker, "answers")
    return keys


class ByAnswer:
    """Responses with equivalent final answers are one cluster.

    Equivalent means: equal normal forms of the verifier. Responses without a readable answer share
    one cluster, so that nobody is unique by saying nothing. Where all right answers have one value,
    as in mathematics, all right responses are one cluster; Countdown's answers are expressions.
    """

    name = "answer"
    needs = frozenset({"answers"})

    def __call__(self, batch: GroupBatch) -> Tensor:
        return labelled(keys_of(batch, "partition=answer"))


class ByExpression:
    """Answers that are the same arithmetic expression are one cluster.

    Expressions are read by the Countdown grammar and compared up to commutativity and
    associativity, so `3 + 4 * 2` and `2 * 4 + 3` are one. An answer that is no expression stands
    for itself, as under `ByAnswer`.
    """

    name = "expression"
    needs = frozenset({"answers"})

    def __call__(self, batch: GroupBatch) -> Tensor:
        if batch.answers is None:
            raise missing_need("partition=expression", "answers")

        # the expression of each answer, or its key
        labels: list[list[Hashable]] = []
        keys_of_groups = keys_of(batch, "partition=expression")
        for answers, keys in zip(batch.answers, keys_of_groups, strict=True):
            labels.append([expression_label(*pair) for pair in zip(answers, keys, strict=True)])
        return labelled(labels)


def expression_label(answer: str | None, key: str | None) -> Hashable:
    """What an answer says as an expression, or else its normal form."""
    if answer is None:
        return None
    try:
        return ("expression", parse(answer).canonical)
    except GrammarError:
        return ("answer", key)


class ByOperators:
    """Responses that use the same arithmetic signs equally often are one cluster (a style).

    Numbers, words and order do not count, so this is a coarse partition, of how a problem was
    attacked rather than of what was written.
    """

    name = "style"
    needs = frozenset({"texts"})

    def __call__(self, batch: GroupBatch) -> Tensor:
        # one label a response
        labels = [[operators_of(text) for text in group] for group in texts_of(batch, self.name)]
        return labelled(labels)


def operators_of(text: str) -> Hashable:
    """How often each of `OPERATORS` stands in a text, LaTeX and Unicode spellings included."""
    # one spelling for each sign
    shown = text[:MAX_CHARACTERS]
    for spelling, sign in _SPELLINGS.items():
        shown = shown.replace(spelling, sign)
    return tuple(shown.count(sign) for sign in OPERATORS)


def texts_of(batch: GroupBatch, partition: str) -> list[list[str]]:
    """The texts of a batch.

    Raises:
        ValueError: the batch carries no texts.
    """
    if batch.texts is None:
        raise missing_need(f"partition={partition}", "texts")
    return batch.texts


# --- by similarity of pairs


def linked(similar_PGG: Tensor) -> Tensor:
    """Single linkage: responses that a chain of similar pairs joins are one cluster.

    Args:
        similar_PGG: boolean, which pairs are similar; read in both directions.

    Returns:
        Cluster numbers (P, G) int64: the lowest place of the cluster.
    """
    group_size = similar_PGG.shape[-1]
    own_GG = torch.eye(group_size, dtype=torch.bool, device=similar_PGG.device)
    joined_PGG = similar_PGG | similar_PGG.transpose(-1, -2) | own_GG

    # squaring doubles the longest chain, so a few products join all that can be joined
    reached = 1
    while reached < group_size:
        wide_PGG = joined_PGG.double()
        joined_PGG = (wide_PGG @ wide_PGG) > 0
        reached *= 2

    # the first place that a response is joined with
    return joined_PGG.int().argmax(dim=-1)


class ByNgrams:
    """Texts that share more than `threshold` of their word n-grams are linked (single linkage).

    The share is |A and B| / |A or B| of the sets of n-grams (Jaccard). Texts without a word are
    alike.

    Args:
        n: words of an n-gram.
        threshold: share above which two texts are similar, in [0, 1).
    """

    name = "ngram"
    needs = frozenset({"texts"})

    def __init__(self, n: int = 2, threshold: float = 0.5) -> None:
        if n < 1 or not 0 <= threshold < 1:
            raise ValueError(
                f"partition: need n >= 1 and threshold in [0, 1), got {n} and {threshold}"
            )
        self.n, self.threshold = n, threshold

    def __call__(self, batch: GroupBatch) -> Tensor:
        def is_similar(left: frozenset[str], right: frozenset[str]) -> bool:
            """Whether two sets of n-grams share enough."""
            either = len(left | right)
            return not either or len(left & right) / either > self.threshold

        # every pair of a group
        similar: list[list[list[bool]]] = []
        for group in texts_of(batch, self.name):
            similar.append(pairwise([ngrams(text, self.n) for text in group], is_similar))
        return linked(torch.tensor(similar, dtype=torch.bool))


def pairwise(
    items: Sequence[frozenset[str]], is_similar: Callable[[frozenset[str], frozenset[str]], bool]
) -> list[list[bool]]:
    """Whether each item is similar to each that follows it; the rest of the square is False."""
    # one half is enough: similarity has no direction
    square = [[False] * len(items) for _ in items]
    for i, left in enumerate(items):
        for j in range(i + 1, len(items)):
            square[i][j] = is_similar(left, items[j])
    return square


def ngrams(text: str, n: int) -> frozenset[str]:
    """The word n-grams of a text; a text of fewer words is one gram of its own."""
    # the end of a long text is not looked at
    words = _WORD.findall(text[:MAX_CHARACTERS])
    if 0 < len(words) < n:
        return frozenset({" ".join(words)})
    return frozenset(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))


class ByEmbedding:
    """Texts whose embeddings have a cosine above `threshold` are linked (single linkage).

    DARLING (arXiv 2509.02534) links by a fine-tuned classifier at P > 0.5; this is the same linkage
    on cosines of the run's encoder. A text without a direction, an empty one, is alike to others of
    its kind only.

    Args:
        threshold: cosine above which two texts are similar, in [-1, 1).
    """

    name = "embedding"
    needs = frozenset({"embeddings"})

    def __init__(self, threshold: float = 0.9) -> None:
        if not -1 <= threshold < 1:
            raise ValueError(f"partition.threshold must lie in [-1, 1), got {threshold}")
        self.threshold = threshold

    def __call__(self, batch: GroupBatch) -> Tensor:
        if batch.embeddings_PGE is None:
            raise missing_need("partition=embedding", "embeddings (configure an encoder)")

        # texts without a direction are alike to each other only
        cosine_PGG, zero_PG = cosine_matrix(batch.embeddings_PGE)
        both_zero_PGG = zero_PG[:, :, None] & zero_PG[:, None, :]
        neither_zero_PGG = ~(zero_PG[:, :, None] | zero_PG[:, None, :])
        return linked(((cosine_PGG > self.threshold) & neither_zero_PGG) | both_zero_PGG)


# --- sizes of clusters


def cluster_sizes(partition_PG: Tensor) -> Tensor:
    """Number of responses in the cluster of each response, itself included, (P, G) int64."""
    return (partition_PG[:, :, None] == partition_PG[:, None, :]).sum(-1)


def partition_metrics(partition_PG: Tensor) -> dict[str, float]:
    """Mean number of clusters in a group, and mean share of its largest cluster."""
    # how fine the partition is, and how uneven
    group_size = partition_PG.shape[-1]
    counts = [len(set(group)) for group in partition_PG.tolist()]
    largest_P = cluster_sizes(partition_PG).amax(-1).double() / group_size
    return {
        "clusters": sum(counts) / len(counts),
        "largest_cluster": largest_P.mean().item(),
    }

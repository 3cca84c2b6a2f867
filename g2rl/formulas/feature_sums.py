"""Sums of token features, for which theory says what their inner products must be.

A response drawn from the policy at the temperature of p_t, without truncation, has
E[phi_t | prefix] = 0 (docs/method.md, "The zero-mean identity"). So two independent responses to
one prompt have E<sum_i, sum_j> = 0, where sum_i = T_i Phi_i is the sum of the features of the
tokens of response i. Nothing follows for their cosine, in which each vector is divided by its own
length: a sharp policy draws a few responses again and again, and their mean cosine may be far above
0 while their mean inner product is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from g2rl.formulas.pairs import pair_values


def first_alike(groups: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """For each response, the place of the first response of its group with the same tokens.

    Args:
        groups: token ids of P groups of G responses.

    Returns:
        (P, G), int64; two responses of a group are identical if they have the same number.
    """
    rows: list[list[int]] = []
    for group in groups:
        place_of: dict[tuple[int, ...], int] = {}
        rows.append([place_of.setdefault(tuple(tokens), g) for g, tokens in enumerate(group)])
    return torch.tensor(rows)


def identical_pairs(first_PG: Tensor) -> Tensor:
    """Which pairs of responses are identical, (P, G, G), boolean.

    Args:
        first_PG: of `first_alike`.
    """
    return first_PG.unsqueeze(-1) == first_PG.unsqueeze(-2)


def sum_products(sum_norms_PG: Tensor, cosine_PGG: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products of the feature sums of each pair, and the size that they are compared with.

    Args:
        sum_norms_PG: lengths |sum_i| of the feature sums, T_i |Phi_i|.
        cosine_PGG: cosines of the features, which are those of their sums.

    Returns:
        <sum_i, sum_j> and (|sum_i|^2 + |sum_j|^2) / 2, each (P, G, G), float64. Over all pairs of a
        group the second one averages to the mean of |sum_i|^2.
    """
    norms_PG = sum_norms_PG.double()
    inner_PGG = cosine_PGG.double() * norms_PG.unsqueeze(-1) * norms_PG.unsqueeze(-2)
    squares_PG = norms_PG.square()
    return inner_PGG, (squares_PG.unsqueeze(-1) + squares_PG.unsqueeze(-2)) / 2


def identity_metrics(
    features_PGD: Tensor, lengths_PG: Tensor, cosine_PGG: Tensor, first_PG: Tensor | None
) -> dict[str, float]:
    """The identity ratio, and what of the cosines is due to identical responses.

    Args:
        features_PGD: gradient features Phi.
        lengths_PG: numbers of tokens.
        cosine_PGG: cosines of the features.
        first_PG: of `first_alike`; None where it is not known which responses are identical.

    Returns:
        ``identity_ratio``: mean <sum_i, sum_j> over pairs, divided by the mean of |sum_i|^2; it is
        0 in expectation at equal temperatures without truncation, and 1 if all responses are
        identical. ``identical_pairs``: their share. ``cosine_distinct`` and
        ``negative_pairs_distinct``: over pairs of different responses. What is undefined, because
        there is no pair or only zeros, is absent.
    """
    sum_norms_PG = features_PGD.double().norm(dim=-1) * lengths_PG.double()
    return identity_metrics_of(sum_norms_PG, cosine_PGG, first_PG)


def identity_metrics_of(
    sum_norms_PG: Tensor, cosine_PGG: Tensor, first_PG: Tensor | None
) -> dict[str, float]:
    """`identity_metrics` of vectors of which only lengths |sum_i| and cosines are known."""
    metrics: dict[str, float] = {}

    # the identity ratio, which needs a length above 0
    inner_PGG, squares_PGG = sum_products(sum_norms_PG, cosine_PGG)
    size = pair_values(squares_PGG).sum().item()
    if size > 0:
        metrics["identity_ratio"] = pair_values(inner_PGG).sum().item() / size

    # which pairs say something of how the policy spreads
    cosines = pair_values(cosine_PGG).flatten()
    if first_PG is None or not len(cosines):
        return metrics
    is_identical = pair_values(identical_pairs(first_PG)).flatten()
    metrics["identical_pairs"] = is_identical.float().mean().item()

    # and the cosines of those pairs that really differ
    distinct_cosines = cosines[~is_identical]
    if len(distinct_cosines):
        metrics["cosine_distinct"] = distinct_cosines.mean().item()
        metrics["negative_pairs_distinct"] = (distinct_cosines < 0).float().mean().item()
    return metrics

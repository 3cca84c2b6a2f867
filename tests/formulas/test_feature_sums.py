"""Feature sums against plain loops, and a policy whose answer can be worked out by hand."""

from __future__ import annotations

import itertools

import pytest
import torch

from g2rl.formulas.feature_sums import (
    first_alike,
    identical_pairs,
    identity_metrics,
    sum_products,
)
from g2rl.formulas.tensors import cosine_matrix


def test_identical_responses_share_the_place_of_the_first() -> None:
    first_PG = first_alike([[[1, 2], [1], [1, 2], []], [[], [3], [], [3]]])
    assert first_PG.tolist() == [[0, 1, 0, 3], [0, 1, 0, 1]]
    assert identical_pairs(first_PG)[0, 2].tolist() == [True, False, True, False]


def test_metrics_are_those_of_plain_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    features_PGD = torch.randn(3, 4, 5, generator=generator)
    features_PGD[1, 2] = features_PGD[1, 0]
    lengths_PG = torch.randint(1, 9, (3, 4), generator=generator)
    lengths_PG[1, 2] = lengths_PG[1, 0]
    first_PG = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 3], [0, 1, 2, 3]])
    cosine_PGG, _ = cosine_matrix(features_PGD)
    metrics = identity_metrics(features_PGD, lengths_PG, cosine_PGG, first_PG)

    inner, squares, cosines = [], [], []
    for p in range(3):
        sums = [lengths_PG[p, g].item() * features_PGD[p, g].double() for g in range(4)]
        squares += [float(s @ s) for s in sums]
        for i, j in itertools.combinations(range(4), 2):
            inner.append(float(sums[i] @ sums[j]))
            if (p, i, j) != (1, 0, 2):
                cosines.append(float(sums[i] @ sums[j] / sums[i].norm() / sums[j].norm()))
    mean = sum(inner) / len(inner)
    assert metrics["identity_ratio"] == pytest.approx(mean / (sum(squares) / len(squares)))
    assert metrics["identical_pairs"] == pytest.approx(1 / 18)
    assert metrics["cosine_distinct"] == pytest.approx(sum(cosines) / 17)
    negative = sum(cosine < 0 for cosine in cosines)
    assert metrics["negative_pairs_distinct"] == pytest.approx(negative / 17)


def test_a_sharp_policy_has_a_large_cosine_and_an_inner_product_of_zero() -> None:
    """One token of two, p = 0.97 and 0.03, worked out over all pairs with their probabilities.

    phi is (1 - p_y) times the difference of the two rows of the head, with a sign.
    """
    p = torch.tensor([0.97, 0.03], dtype=torch.float64)
    phi = torch.stack([(1 - p[0]).reshape(1), -(1 - p[1]).reshape(1)])  # (token, D = 1)
    mean_inner = sum(p[a] * p[b] * (phi[a] @ phi[b]) for a in (0, 1) for b in (0, 1))
    mean_cosine = sum(p[a] * p[b] * (1 if a == b else -1) for a in (0, 1) for b in (0, 1))
    assert float(mean_inner) == pytest.approx(0, abs=1e-15)
    assert float(mean_cosine) == pytest.approx(0.8836)

    # the same from samples
    drawn = torch.multinomial(p, 40_000, True, generator=torch.Generator().manual_seed(1))
    features_PGD = phi[drawn].reshape(2_500, 16, 1).float()
    cosine_PGG, _ = cosine_matrix(features_PGD)
    first_PG = first_alike([[[int(t)] for t in group] for group in drawn.reshape(2_500, 16)])
    metrics = identity_metrics(features_PGD, torch.ones(2_500, 16), cosine_PGG, first_PG)
    assert metrics["identity_ratio"] == pytest.approx(0, abs=0.02)
    assert metrics["identical_pairs"] == pytest.approx(0.97**2 + 0.03**2, abs=0.02)
    assert metrics["cosine_distinct"] == pytest.approx(-1)
    assert (cosine_PGG.sum() - 2_500 * 16) / (2_500 * 16 * 15) > 0.8


def test_what_is_undefined_is_absent() -> None:
    first_PG = first_alike([[[1]], [[2]]])
    alone_PGD, cosine_PGG = torch.ones(2, 1, 3), torch.ones(2, 1, 1)
    assert identity_metrics(alone_PGD, torch.ones(2, 1), cosine_PGG, first_PG) == {}

    # only zeros, only identical responses
    zeros_PGD, cosine_PGG = torch.zeros(1, 2, 3), torch.zeros(1, 2, 2)
    first_PG = first_alike([[[1], [1]]])
    metrics = identity_metrics(zeros_PGD, torch.ones(1, 2), cosine_PGG, first_PG)
    assert metrics == {"identical_pairs": 1.0}


def test_products_of_sums_use_their_lengths() -> None:
    cosine_PGG = torch.tensor([[[1.0, -0.5], [-0.5, 1.0]]])
    inner_PGG, squares_PGG = sum_products(torch.tensor([[2.0, 3.0]]), cosine_PGG)
    assert inner_PGG[0].tolist() == [[4.0, -3.0], [-3.0, 9.0]]
    assert squares_PGG[0].tolist() == [[4.0, 6.5], [6.5, 9.0]]

"""Marginal volumes against determinants, and against the projection residual."""

from __future__ import annotations

import math

import pytest
import torch

from g2rl.exploration.determinant import MarginalVolume, marginal_log_volume
from g2rl.exploration.g2rl import projection_residual
from tests.exploration.groups import batch_of


def test_it_is_a_ratio_of_determinants_over_the_members_alone() -> None:
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(1, 5, 4, generator=rng).double() * 10
    members = torch.tensor([[True, True, False, True, True]])
    found = marginal_log_volume(vectors, members, 0.01)[0]
    assert found[2] == 0
    unit = torch.nn.functional.normalize(vectors[0], dim=-1)
    inside = [0, 1, 3, 4]
    for i in inside:
        determinants = []
        for rows in (inside, [j for j in inside if j != i]):
            kernel = unit[rows] @ unit[rows].T + 0.01 * torch.eye(len(rows)).double()
            determinants.append(float(torch.logdet(kernel)))
        assert float(found[i]) == pytest.approx(determinants[0] - determinants[1])


def test_copies_have_no_volume_and_novel_directions_all() -> None:
    """Two copies of x and one y, eps = 0.01: det 2x2 with ones is (1.01^2 - 1)."""
    batch = batch_of([[1, 1, 1]], embeddings_PGE=torch.tensor([[[1.0, 0], [5, 0], [0, 2]]]))
    copy, novel = math.log((1.01**2 - 1) / 1.01), math.log(1.01)
    shaped = MarginalVolume(alpha=0.5)(batch)
    assert shaped.rewards_PG[0].tolist() == pytest.approx([1 + copy / 2] * 2 + [1 + novel / 2])


def test_without_a_ridge_it_is_the_projection_residual_of_g2rl() -> None:
    """The twin on Phi: exp(b) - the ridge's share = 1 - |P_span Phi|^2."""
    phi = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(1)).double()
    volume = marginal_log_volume(phi, torch.ones(2, 4, dtype=torch.bool), 1e-9).exp()
    torch.testing.assert_close(volume, projection_residual(phi), rtol=1e-6, atol=1e-6)


def test_a_vector_without_direction_has_the_least_volume() -> None:
    found = marginal_log_volume(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), 0.01)
    assert found[0].tolist() == pytest.approx([math.log(0.01)] * 2)


def test_wrong_responses_are_paid_only_if_asked() -> None:
    given = {"features_PGD": torch.tensor([[[1.0, 0], [1, 0], [0, 1]]])}
    right = MarginalVolume(features="phi")(batch_of([[1, 0, 0]], **given))
    assert right.rewards_PG[0].tolist() == pytest.approx([1 + 0.1 * math.log(1.01), 0, 0])
    every = MarginalVolume(features="phi", among="all")(batch_of([[1, 0, 0]], **given))
    assert every.rewards_PG[0, 1] < every.rewards_PG[0, 2]
    assert MarginalVolume(features="phi").needs == {"features"}


def test_what_is_missing_or_wrong_is_named() -> None:
    with pytest.raises(ValueError, match="embeddings"):
        MarginalVolume()(batch_of([[1, 0]]))
    for settings in ({"alpha": -1}, {"eps": 0}, {"features": "x"}, {"among": "x"}):
        with pytest.raises(ValueError, match="exploration"):
            MarginalVolume(**settings)

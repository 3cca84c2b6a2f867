"""The elliptical bonus against its matrices, and the traps of its scale."""

from __future__ import annotations

import pytest
import torch

from g2rl.exploration.repexp import (
    RepresentationExploration,
    elliptical_bonus,
    sparse_projection,
)
from tests.exploration.groups import batch_of


def vectors(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("ridge", [0.01, 3.0])
@pytest.mark.parametrize("shape", [(3, 6, 4), (2, 4, 20), (1, 1, 3)])
def test_leverage_is_that_of_the_matrix_as_written(
    shape: tuple[int, int, int], ridge: float
) -> None:
    """h' (ridge I + sum_j h_j h_j')^-1 h of centred vectors, and the same without h_i."""
    given = vectors(*shape)
    found, left_out = elliptical_bonus(given, ridge), elliptical_bonus(given, ridge, True)
    for p in range(shape[0]):
        h = given[p] - given[p].mean(0)
        whole = ridge * torch.eye(shape[2]).double() + h.T @ h
        for i in range(shape[1]):
            expected = h[i] @ torch.linalg.inv(whole) @ h[i]
            assert float(found[p, i]) == pytest.approx(float(expected), abs=1e-9)
            without = whole - torch.outer(h[i], h[i])
            alone = h[i] @ torch.linalg.inv(without) @ h[i]
            assert float(left_out[p, i]) == pytest.approx(float(alone), rel=1e-6, abs=1e-9)


def test_trap_leverages_are_nearly_equal_where_dimensions_abound() -> None:
    """Eight responses in 32 dimensions: 7/8 each; in two dimensions they differ."""
    wide = elliptical_bonus(vectors(1, 8, 32), 0.01)[0]
    narrow = elliptical_bonus(vectors(1, 8, 2), 0.01)[0]
    assert float(wide.max() - wide.min()) < 0.01
    assert float(wide.mean()) == pytest.approx(7 / 8, abs=0.01)
    assert float(narrow.max() - narrow.min()) > 0.3


def test_bonuses_are_paid_on_zero_and_one_and_not_where_nothing_is_right() -> None:
    given = vectors(3, 4, 3)
    batch = batch_of([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]], reference_hidden_PGD=given)
    signal = RepresentationExploration(dim=None)
    shaped = signal(batch)
    expected = batch.r01_PG + 0.01 * elliptical_bonus(given, 0.01).float()
    torch.testing.assert_close(shaped.rewards_PG[[0, 2]], expected[[0, 2]])
    assert (shaped.rewards_PG[1] == 0).all()

    # trap: the published runs pay groups in which all are right
    assert float(shaped.rewards_PG[2].std()) > 0
    skipping = RepresentationExploration(dim=None, skip_all_correct=True)
    assert (skipping(batch).rewards_PG[2] == 1).all()


@pytest.mark.parametrize(
    ("features", "need"),
    [("reference", "reference_hidden"), ("hidden", "hidden"), ("phi", "features")],
)
def test_its_vectors_are_a_choice(features: str, need: str) -> None:
    signal = RepresentationExploration(features=features)
    assert signal.needs == {need}
    field = {"reference": "reference_hidden_PGD", "hidden": "hidden_PGD", "phi": "features_PGD"}
    found = signal(batch_of([[1, 0, 1]], **{field[features]: vectors(1, 3, 50)}))
    assert float(found.diagnostics["elliptical_bonus"].sum()) == pytest.approx(2, abs=0.05)
    with pytest.raises(ValueError, match=features):
        signal(batch_of([[1, 0]]))


def test_the_projection_is_drawn_anew_every_step_and_keeps_lengths() -> None:
    one, again, other = (sparse_projection(400, 32, 0, step) for step in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert float((one != 0).double().mean()) == pytest.approx(1 / 20, abs=0.01)
    vector = vectors(400)
    lengths = [float((vector @ sparse_projection(400, 32, 0, s)).square().sum()) for s in range(99)]
    assert sum(lengths) / 99 == pytest.approx(float(vector.square().sum()), rel=0.1)


def test_scale_matters_unless_vectors_are_divided_by_their_length() -> None:
    given = vectors(1, 3, 5)
    plain = [elliptical_bonus(scale * given, 0.01) for scale in (0.05, 1.0)]
    assert not torch.allclose(*plain)
    unit = RepresentationExploration(dim=None, unit=True, features="phi")
    found = [unit(batch_of([[1, 0, 1]], features_PGD=s * given)).rewards_PG for s in (0.05, 1.0)]
    torch.testing.assert_close(*found)
    assert torch.isfinite(elliptical_bonus(1e200 * given, 0.01, True)).all()


def test_wrong_settings_are_named() -> None:
    for settings in ({"beta": -1.0}, {"ridge": 0.0}, {"dim": 0}, {"bonus": "x"}, {"features": "x"}):
        with pytest.raises(ValueError, match="exploration"):
            RepresentationExploration(**settings)

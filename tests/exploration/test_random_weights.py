"""The random control: credit moves by chance, and its total stays."""

from __future__ import annotations

import pytest
import torch

from g2rl.exploration.random_weights import RandomWeights
from g2rl.types import GroupBatch
from tests.exploration.groups import batch_of
from tests.support import composed


def given(step: int = 1) -> GroupBatch:
    verdicts = [[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]
    return batch_of(verdicts, advantages_PG=torch.arange(12.0).view(3, 4), step=step)


def test_right_responses_share_a_fixed_total_and_wrong_ones_keep_theirs() -> None:
    batch = given()
    weights = RandomWeights()(batch).diagnostics["random_weight"]
    assert (weights[~batch.correct_PG] == 1).all()
    assert float(weights[0, [0, 1, 3]].mean()) == pytest.approx(1)
    assert weights[0].unique().numel() == 4
    assert float(weights[2, 1]) == pytest.approx(1), "one right response has nobody to share with"
    expected = batch.advantages_PG * weights.float()
    assert torch.equal(RandomWeights()(batch).advantages_PG, expected)


def test_weights_depend_on_seed_and_step_alone() -> None:
    first = RandomWeights()(given()).diagnostics["random_weight"]
    assert torch.equal(first, RandomWeights()(given()).diagnostics["random_weight"])
    assert not torch.equal(first, RandomWeights()(given(step=2)).diagnostics["random_weight"])
    assert not torch.equal(first, RandomWeights(seed=1)(given()).diagnostics["random_weight"])


def test_weights_have_the_moments_of_shares_of_an_exponential() -> None:
    """m right ones: w / mean w is m times a flat Dirichlet, of variance (m - 1) / (m + 1)."""
    batch = batch_of([[1] * 8] * 4000, advantages_PG=torch.ones(4000, 8))
    weights = RandomWeights()(batch).diagnostics["random_weight"]
    assert float((weights - 1).square().mean()) == pytest.approx(7 / 9, rel=0.03)


def test_strength_blends_with_even_shares() -> None:
    full = RandomWeights()(given()).diagnostics["random_weight"]
    half = RandomWeights(strength=0.5)(given()).diagnostics["random_weight"]
    torch.testing.assert_close(half, (1 + full) / 2)
    assert torch.equal(RandomWeights(strength=0)(given()).advantages_PG, given().advantages_PG)
    with pytest.raises(ValueError, match="strength"):
        RandomWeights(strength=2)
    with pytest.raises(ValueError, match="advantages"):
        RandomWeights()(batch_of([[1]]))


def test_the_seed_is_one_for_all_runs_unless_it_follows_theirs() -> None:
    seeds = [
        composed("exploration=random_weights", f"seed={seed}", *words).exploration.seed
        for seed in (1, 2)
        for words in ((), ("exploration.seed=${seed}",))
    ]
    assert seeds == [0, 1, 0, 2]

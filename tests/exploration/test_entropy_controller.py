"""The entropy controller by hand, its coefficient in the state, and steps without tokens."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from g2rl.exploration.entropy_controller import EntropyController
from g2rl.types import GroupBatch


def batch_of(entropies: list[list[float]], lengths: list[list[int]]) -> GroupBatch:
    correct_PG = torch.zeros(len(lengths), len(lengths[0]), dtype=torch.bool)
    return GroupBatch(
        rewards_PG=2.0 * correct_PG - 1,
        correct_PG=correct_PG,
        lengths_PG=torch.tensor(lengths),
        entropy_PG=torch.tensor(entropies),
    )


def step(signal: EntropyController, entropy: float) -> float:
    """The bonus of a step of this mean entropy."""
    return signal(batch_of([[entropy, entropy]], [[3, 5]])).entropy_coef


def test_the_coefficient_rises_below_the_target_and_falls_above() -> None:
    """Skywork-OR1's rule; TRL moves its coefficient through the same values."""
    signal = EntropyController(target=0.5, delta=0.1, most=0.2)
    bonuses = [step(signal, e) for e in (0.4, 0.5, 0.1, 0.1, 0.9, 0.4, 0.9, 0.9, 0.9, 0.1)]
    assert bonuses == pytest.approx([0.0, 0.1, 0.2, 0.2, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0])
    assert signal.coefficient == pytest.approx(0.1)


def test_the_entropy_is_a_mean_over_tokens() -> None:
    """(0.2 * 1 + 0.8 * 3) / 4 = 0.65; a mean over responses would be 0.5, below the target."""
    signal = EntropyController(target=0.6, start=0.3)
    shaped = signal(batch_of([[0.2, 0.8]], [[1, 3]]))
    assert shaped.metrics["entropy_controlled"] == pytest.approx(0.65)
    assert shaped.entropy_coef == 0
    assert signal.coefficient == pytest.approx(0.295)


def test_a_step_without_tokens_moves_nothing() -> None:
    signal = EntropyController(start=0.1)
    assert signal(batch_of([[0.0, 0.0]], [[0, 0]])).entropy_coef == 0
    assert signal.coefficient == 0.1


def test_a_continued_controller_gives_what_the_uninterrupted_one_gives() -> None:
    rng = torch.Generator().manual_seed(0)
    entropies = (0.4 * torch.rand(2000, generator=rng)).tolist()
    whole = EntropyController()
    expected = [step(whole, e) for e in entropies]
    first, second = EntropyController(), EntropyController()
    found = [step(first, e) for e in entropies[:777]]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    found += [step(second, e) for e in entropies[777:]]
    assert found == expected
    assert all(math.isfinite(bonus) for bonus in found)
    assert len(set(found)) > 5


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"coefficient": 2.0},
        {"coefficient": math.nan},
        {"coefficient": "0.1"},
        {"coefficient": 0.1, "counts": {}},
    ],
)
def test_the_state_of_something_else_is_refused(state: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="exploration=entropy_controller: the checkpoint"):
        EntropyController().load_state_dict(state)


def test_a_batch_without_entropies_is_refused() -> None:
    batch = batch_of([[0.1]], [[1]])
    batch.entropy_PG = None
    with pytest.raises(ValueError, match="needs entropies"):
        EntropyController()(batch)


@pytest.mark.parametrize(
    "bad", [{"target": 0.0}, {"delta": 0.0}, {"start": 2.0}, {"least": 0.1}, {"most": -1.0}]
)
def test_settings_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="exploration"):
        EntropyController(**bad)

"""Overlong shaping in the step: taken from shaped rewards, and refused where there are none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from g2rl.cli.jobs.train import train
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.formulas.overlong import OverlongShaping
from g2rl.training.step import TrainingStep
from g2rl.types import GroupBatch, Shaped
from tests.support import composed


def step_with(shaping: OverlongShaping) -> Any:
    """What `TrainingStep._advantages` needs of a step."""
    step = SimpleNamespace(
        overlong=shaping,
        advantage=GroupAdvantage(scale="none"),
        explorer=SimpleNamespace(signal=SimpleNamespace(name="mine")),
    )
    step._refuse_overlong_shaping = lambda: TrainingStep._refuse_overlong_shaping(step)
    return step


def batch_of(lengths: list[int]) -> GroupBatch:
    correct_PG = torch.tensor([[True, True, False, False]])
    return GroupBatch(2.0 * correct_PG - 1, correct_PG, torch.tensor([lengths]))


def test_long_responses_lose_shaped_reward_before_the_advantage() -> None:
    """L_max = 10 and a buffer of 5: 10 tokens lose 1, 6 lose 0.2. Rewards 2, 1, -1, -1.2, mean
    0.2."""
    shaped = Shaped(torch.tensor([[3.0, 1.0, -1.0, -1.0]]))
    step = step_with(OverlongShaping(0.5, 1.0, 10))
    found, metrics = TrainingStep._advantages(step, shaped, batch_of([10, 5, 1, 6]))
    assert found[0].tolist() == pytest.approx([1.8, 0.8, -1.2, -1.4])
    assert metrics["overlong"] == pytest.approx(0.3)
    assert metrics["uniform_correct"] == 0, "the verdicts say what is uniform, not the lengths"


def test_length_gives_a_uniform_group_advantages_only_by_what_it_costs() -> None:
    batch = batch_of([10, 5, 5, 5])
    batch.correct_PG = torch.ones(1, 4, dtype=torch.bool)
    batch.rewards_PG = torch.ones(1, 4)
    step = step_with(OverlongShaping(0.5, 1.0, 10))
    found, metrics = TrainingStep._advantages(step, Shaped(batch.rewards_PG), batch)
    assert found[0].tolist() == pytest.approx([-0.75, 0.25, 0.25, 0.25])
    assert metrics["uniform_correct"] == 1


def test_without_shaping_no_bit_changes() -> None:
    rewards_PG = torch.tensor([[1.3, 0.1, -0.7, -0.0]])
    batch = batch_of([10, 5, 1, 6])
    found, metrics = TrainingStep._advantages(
        step_with(OverlongShaping(max_tokens=10)), Shaped(rewards_PG), batch
    )
    expected, _ = GroupAdvantage(scale="none")(rewards_PG, batch.rewards_PG)
    assert torch.equal(found, expected)
    assert "overlong" not in metrics


def test_a_signal_that_gives_advantages_cannot_be_shaped() -> None:
    shaped = Shaped(torch.zeros(1, 4), advantages_PG=torch.zeros(1, 4))
    batch = batch_of([1, 1, 1, 1])
    TrainingStep._advantages(step_with(OverlongShaping(max_tokens=10)), shaped, batch)
    with pytest.raises(ValueError, match=r"exploration=mine gives advantages.*overlong_buffer=0"):
        TrainingStep._advantages(step_with(OverlongShaping(0.5, 1.0, 10)), shaped, batch)


def test_it_is_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    config = composed("experiment=smoke", "tracking=local", "algorithm=dapo", "exploration=maxrl")
    with pytest.raises(ValueError, match=r"exploration=maxrl gives advantages"):
        train(config, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()

"""Signals on outcome rewards in any order: whole groups, verl's advantages, refusals by name."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch

from g2rl.exploration import GroupBatch, Shaped, Stateless
from g2rl.exploration.entropy import EntropyBonus
from g2rl.exploration.g2rl import GradientGuided
from g2rl.exploration.none import NoExploration
from g2rl.integrations.groups import OutcomeSignal, order_by_group, verl_advantages

IDS = ["b", "a", "b", "a", "a", "b"]
REWARDS = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])
LENGTHS = torch.tensor([3, 1, 4, 1, 5, 9])
FEATURES = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


class Says(Stateless):
    """Keeps its batch and says what it is told to."""

    name = "says"

    def __init__(self, *needs: str, say: Any = None) -> None:
        self.needs, self.say = frozenset(needs), say
        self.batches: list[GroupBatch] = []

    def __call__(self, batch: GroupBatch) -> Shaped:
        self.batches.append(batch)
        return Shaped(batch.rewards_PG) if self.say is None else self.say(batch)


def by_hand(rewards: list[float], divide: bool = True) -> list[float]:
    """verl's advantages of rewards in the order of IDS, with the statistics module."""
    found: list[float] = []
    for reward, group_id in zip(rewards, IDS, strict=True):
        group = [r for r, other in zip(rewards, IDS, strict=True) if other == group_id]
        spread = statistics.stdev(group) + 1e-6 if divide else 1.0
        found.append((reward - statistics.mean(group)) / spread)
    return found


@pytest.mark.parametrize("divide", [True, False])
def test_groups_are_found_in_any_order(divide: bool) -> None:
    watch = Says()
    found, _ = OutcomeSignal(watch, divide=divide)(REWARDS, LENGTHS, IDS)
    torch.testing.assert_close(found, torch.tensor(by_hand(REWARDS.tolist(), divide)))
    [batch] = watch.batches
    assert batch.lengths_PG.tolist() == [[3, 4, 9], [1, 1, 5]]
    assert batch.correct_PG.tolist() == [[True, False, False], [False, True, False]]


def test_shaped_rewards_have_the_unit_of_the_verdict() -> None:
    """With verdicts of -2 and 4 a signal's change of 1 is worth 3."""
    rewards = torch.where(REWARDS > 0, 4.0, -2.0)
    watch = Says(say=lambda batch: Shaped(batch.rewards_PG + 0.1 * batch.lengths_PG))
    found, _ = OutcomeSignal(watch, wrong_right=(-2.0, 4.0))(rewards, LENGTHS, IDS)
    expected = by_hand((rewards + 0.3 * LENGTHS).tolist())
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_columns_go_to_their_groups_and_observers_only_measure() -> None:
    watch = Says("features", "advantages")
    signal = GradientGuided()
    exploration = OutcomeSignal(signal, [watch], frozenset({"features"}))
    found, metrics = exploration(REWARDS, LENGTHS, IDS, {"features_PGD": FEATURES}, step=7)
    [batch] = watch.batches
    assert batch.step == 7
    assert batch.features_PGD is not None
    torch.testing.assert_close(batch.features_PGD[1], FEATURES[[1, 3, 4]])
    assert batch.advantages_PG is not None
    torch.testing.assert_close(
        batch.advantages_PG, verl_advantages(REWARDS[[0, 2, 5, 1, 3, 4]].view(2, 3))
    )
    shaped = signal(batch)
    rewards = [0.0] * 6
    for place, number in enumerate([0, 2, 5, 1, 3, 4]):
        rewards[number] = (float(shaped.rewards_PG.flatten()[place]) + 1) / 2
    torch.testing.assert_close(found, torch.tensor(by_hand(rewards)), rtol=1e-5, atol=1e-5)
    assert metrics["explore/nu_mean"] == shaped.metrics["nu_mean"]


def test_advantages_of_a_signal_are_used_as_they_are() -> None:
    watch = Says(say=lambda batch: Shaped(batch.rewards_PG, advantages_PG=1.0 * batch.lengths_PG))
    found, _ = OutcomeSignal(watch)(REWARDS, LENGTHS, IDS)
    assert found.tolist() == LENGTHS.tolist()


def test_verls_advantage_of_one_response() -> None:
    assert verl_advantages(torch.tensor([[3.0]]), False).tolist() == [[3.0]]
    assert verl_advantages(torch.tensor([[1.0, 1.0]])).tolist() == [[0.0, 0.0]]


def test_an_order_is_a_permutation_that_keeps_members_together() -> None:
    order_N, size = order_by_group(IDS)
    assert (order_N.tolist(), size) == ([0, 2, 5, 1, 3, 4], 3)
    for uneven in ([], ["a", "a", "b"]):
        with pytest.raises(ValueError, match="one size"):
            order_by_group(uneven)


class Planner(Says):
    def tokens(self, view: Any) -> Any:
        raise AssertionError("never asked")


class Joined(Says):
    parts = ()


@pytest.mark.parametrize(
    ("message", "signal"),
    [
        (r"need \['features'\]", GradientGuided()),
        (r"need \['texts'\]", Says("texts")),
        ("single tokens", Planner()),
        ("combines signals", Joined()),
    ],
)
def test_signals_that_do_not_fit_are_refused_at_once(message: str, signal: Any) -> None:
    with pytest.raises(ValueError, match=message):
        OutcomeSignal(signal)


@pytest.mark.parametrize(
    ("message", "signal"),
    [
        ("entropy_coef", EntropyBonus(0.1)),
        ("keep_P", Says(say=lambda b: Shaped(b.rewards_PG, keep_P=torch.tensor([True, False])))),
        ("token_bonus", Says(say=lambda b: Shaped(b.rewards_PG, token_bonus=[torch.ones(1)] * 6))),
        ("not finite", Says(say=lambda b: Shaped(b.rewards_PG * torch.inf))),
        ("another shape", Says(say=lambda b: Shaped(b.rewards_PG, advantages_PG=torch.ones(2, 2)))),
    ],
)
def test_parts_without_a_place_are_refused(message: str, signal: Any) -> None:
    with pytest.raises(ValueError, match=message):
        OutcomeSignal(signal)(REWARDS, LENGTHS, IDS)


def test_rewards_that_are_no_verdicts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"is 0\.5"):
        OutcomeSignal(NoExploration())(REWARDS / 2, LENGTHS, IDS)

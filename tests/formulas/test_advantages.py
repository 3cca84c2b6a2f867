"""Group advantages on hand-worked groups, uniform policies included."""

from __future__ import annotations

import math

import pytest
import torch

from g2rl.formulas.advantages import (
    GroupAdvantage,
    advantage_metrics,
    centred,
    uniform_groups,
)

MIXED = torch.tensor([[1.0, 1.0, 1.0, -1.0]])
"""Mean 1/2, population variance 1 - 1/4 = 3/4."""
SHAPED_UNIFORM = torch.tensor([[1.0, 1.0, 2.0, 2.0]])
"""An all-correct group after shaping: mean 3/2, population standard deviation 1/2."""


def test_grpo_by_hand() -> None:
    """A_i = (r_i - mean) / sqrt(var + eps): (1/2) / sqrt(3/4) = 1/sqrt(3) and -3/2 / sqrt(3/4) =
    -sqrt(3)."""
    found, metrics = GroupAdvantage(eps=1e-12)(MIXED, MIXED)
    assert found[0].tolist() == pytest.approx([1 / math.sqrt(3)] * 3 + [-math.sqrt(3)])
    assert metrics["abs_mean"] == pytest.approx((math.sqrt(3) + math.sqrt(3)) / 4)
    assert metrics["uniform_correct"] == metrics["uniform_wrong"] == metrics["zero_advantage"] == 0


def test_eps_is_added_to_the_variance() -> None:
    """eps = 1/4 makes the divisor sqrt(3/4 + 1/4) = 1."""
    found, _ = GroupAdvantage(eps=0.25)(MIXED, MIXED)
    assert found[0].tolist() == pytest.approx([0.5, 0.5, 0.5, -1.5])


def test_dr_grpo_only_centres() -> None:
    found, _ = GroupAdvantage(scale="none")(MIXED, MIXED)
    assert found[0].tolist() == pytest.approx([0.5, 0.5, 0.5, -1.5])


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("shape", [-1.0, -1.0, 1.0, 1.0]), ("drop", [0.0] * 4), ("floor", [-0.25, -0.25, 0.25, 0.25])],
)
def test_uniform_policies_by_hand(policy: str, expected: list[float]) -> None:
    """shape: ±(1/2)/(1/2); drop: 0; floor 2: ±(1/2)/2."""
    base = torch.ones(1, 4)
    found, _ = GroupAdvantage(eps=1e-12, uniform_groups=policy, floor=2.0)(SHAPED_UNIFORM, base)
    assert found[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("policy", ["shape", "drop", "floor"])
def test_uniform_policies_leave_mixed_groups_alone(policy: str) -> None:
    """What counts is the base reward: the same shaped rewards in a mixed group are standardised."""
    base = torch.tensor([[-1.0, -1.0, 1.0, 1.0]])
    found, _ = GroupAdvantage(eps=1e-12, uniform_groups=policy, floor=2.0)(SHAPED_UNIFORM, base)
    assert found[0].tolist() == pytest.approx([-1.0, -1.0, 1.0, 1.0])


def test_floor_does_not_shrink_a_wide_uniform_group() -> None:
    """max(sqrt(var + eps), floor): a spread above the floor keeps its own divisor."""
    found, _ = GroupAdvantage(eps=1e-12, uniform_groups="floor", floor=0.1)(
        SHAPED_UNIFORM, torch.ones(1, 4)
    )
    assert found[0].tolist() == pytest.approx([-1.0, -1.0, 1.0, 1.0])


def test_floor_under_dr_grpo_divides_by_one() -> None:
    """Without standardising the divisor is 1, and the floor may only raise it."""
    for floor, divisor in ((0.5, 1.0), (2.0, 2.0)):
        setting = GroupAdvantage(scale="none", uniform_groups="floor", floor=floor)
        found, _ = setting(SHAPED_UNIFORM, torch.ones(1, 4))
        assert found[0].tolist() == pytest.approx([x / divisor for x in (-0.5, -0.5, 0.5, 0.5)])


@pytest.mark.parametrize("policy", ["shape", "drop", "floor"])
@pytest.mark.parametrize("scale", ["std", "none"])
def test_group_of_one_has_no_advantage(scale: str, policy: str) -> None:
    rewards = torch.tensor([[1.7], [-0.4]])
    found, metrics = GroupAdvantage(scale=scale, uniform_groups=policy)(rewards, rewards.sign())
    assert found.tolist() == [[0.0], [0.0]]
    assert metrics["zero_advantage"] == 1.0


def test_tiny_spread_is_damped_by_eps_and_by_the_floor() -> None:
    """Spread ±1e-6 with eps = 1e-6: 1e-6 / sqrt(1e-12 + 1e-6) = 1e-3; with a floor of 1/2: 2e-6."""
    tiny = torch.tensor([[1 - 1e-6, 1 + 1e-6]], dtype=torch.float64)
    base = torch.ones(1, 2, dtype=torch.float64)
    shape, _ = GroupAdvantage()(tiny, base)
    assert shape[0].tolist() == pytest.approx([-1e-3, 1e-3], rel=1e-3)
    floor, _ = GroupAdvantage(uniform_groups="floor")(tiny, base)
    assert floor[0].tolist() == pytest.approx([-2e-6, 2e-6], rel=1e-3)


def test_plain_uniform_group_is_exactly_zero_and_counted() -> None:
    base = torch.tensor([[1.0] * 3, [-1.0] * 3, [1.0, -1.0, 1.0], [-1.0] * 3])
    found, metrics = GroupAdvantage()(base, base)
    assert (found[[0, 1, 3]] == 0).all()
    assert metrics["uniform_correct"] == 0.25
    assert metrics["uniform_wrong"] == 0.5
    assert metrics["zero_advantage"] == 0.75
    assert uniform_groups(base).tolist() == [True, True, False, True]


def test_groups_do_not_see_each_other() -> None:
    rewards = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    whole, _ = GroupAdvantage()(rewards, rewards.sign())
    for p in range(5):
        alone, _ = GroupAdvantage()(rewards[p : p + 1], rewards[p : p + 1].sign())
        torch.testing.assert_close(alone[0], whole[p])
    torch.testing.assert_close(whole.mean(-1), torch.zeros(5), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "bad", [{"scale": "x"}, {"uniform_groups": "x"}, {"eps": 0.0}, {"floor": 0.0}]
)
def test_settings_are_checked(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="algorithm"):
        GroupAdvantage(**bad)


@pytest.mark.parametrize("size", [2, 3, 7, 16, 33])
@pytest.mark.parametrize("reward", [1.3, -0.7, 0.1, 1e-30, 1e30, 0.0, 1 / 3])
@pytest.mark.parametrize("scale", ["std", "none"])
def test_equal_inexact_rewards_have_no_advantage(reward: float, size: int, scale: str) -> None:
    """16 times 1.3 has another mean than 1.3 in float32, and sqrt(eps) makes 1e-4 of that."""
    rewards = torch.full((1, size), reward)
    found, metrics = GroupAdvantage(scale=scale)(rewards, torch.ones(1, size))
    assert (found == 0).all()
    assert metrics["zero_advantage"] == 1.0


def test_rewards_that_differ_by_rounding_are_equal_and_those_that_differ_by_more_are_not() -> None:
    computed = torch.tensor([[0.1 + 0.2, 0.3, 0.3, 0.3]], dtype=torch.float64)
    assert computed[0, 0] != computed[0, 1]
    assert (centred(computed) == 0).all()
    ulp = torch.finfo(torch.float32).eps
    near = torch.tensor([[1.0, 1.0 + 4 * ulp]])
    assert (centred(near) == 0).all()
    assert (centred(torch.tensor([[1.0, 1.0 + 8 * ulp]])) != 0).all()
    assert centred(torch.tensor([[0.0, 1e-20]])).tolist()[0] == pytest.approx([-5e-21, 5e-21])


@pytest.mark.parametrize(("set_scale", "asked"), [("std", "none"), ("none", "std")])
def test_a_signal_may_ask_for_another_scale(set_scale: str, asked: str) -> None:
    """Everything else, the policy for uniform groups included, stays the setting's."""
    rewards_PG = torch.tensor([[1.0, 3.0, -2.0], [2.0, 1.0, 1.0]])
    base_PG = torch.tensor([[1.0, 1.0, -1.0], [1.0, 1.0, 1.0]])
    found, _ = GroupAdvantage(scale=set_scale, uniform_groups="drop")(rewards_PG, base_PG, asked)
    expected, _ = GroupAdvantage(scale=asked, uniform_groups="drop")(rewards_PG, base_PG)
    assert torch.equal(found, expected)
    assert (found[1] == 0).all()
    with pytest.raises(ValueError, match="'mean'"):
        GroupAdvantage()(rewards_PG, base_PG, "mean")


def test_metrics_are_those_of_any_advantages() -> None:
    advantages_PG = torch.tensor([[0.0, 0.0], [2.0, -1.0], [0.0, 1.0], [0.0, 0.0]])
    base_PG = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0]])
    assert advantage_metrics(advantages_PG, base_PG) == {
        "uniform_correct": 0.25,
        "uniform_wrong": 0.5,
        "zero_advantage": 0.5,
        "abs_mean": 0.5,
    }


def test_verdicts_say_which_uniform_groups_of_graded_rewards_are_solved() -> None:
    base_PG = torch.tensor([[0.3, 0.3], [0.9, 0.9], [-0.5, -0.5], [0.2, 0.4]])
    correct_PG = torch.tensor([[False, False], [True, True], [True, True], [False, True]])
    _, metrics = GroupAdvantage()(base_PG, base_PG, correct_PG=correct_PG)
    assert (metrics["uniform_correct"], metrics["uniform_wrong"]) == (0.5, 0.25)
    _, metrics = GroupAdvantage()(base_PG, base_PG)
    assert (metrics["uniform_correct"], metrics["uniform_wrong"]) == (0.5, 0.25), "by the sign"
    assert advantage_metrics(base_PG, base_PG[2:], correct_PG[2:])["uniform_correct"] == 0.5

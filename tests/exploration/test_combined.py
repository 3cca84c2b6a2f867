"""Combinations: the order in which parts act, and what is refused."""

from __future__ import annotations

import pytest
import torch

from g2rl.exploration.clip_cov import ClipCov
from g2rl.exploration.combined import Combined, added
from g2rl.exploration.darling import Darling
from g2rl.exploration.entropy import EntropyBonus
from g2rl.exploration.entropy_advantage import EntropyAdvantage
from g2rl.exploration.forking_tokens import ForkingTokens
from g2rl.exploration.kl_cov import KLCov
from g2rl.exploration.maxrl import MaxRL
from g2rl.exploration.none import NoExploration
from g2rl.exploration.nsr import NegativeReinforcement
from g2rl.exploration.outcome import OutcomeExploration
from g2rl.exploration.passk import PassK
from g2rl.exploration.signal import ADVANTAGE, ESTIMATOR, LOSS, REWARD, Stateless
from g2rl.exploration.token_plan import probe_view
from g2rl.exploration.uniqueness import Uniqueness
from g2rl.formulas.advantages import GroupAdvantage
from g2rl.types import GroupBatch, Shaped
from tests.exploration.groups import batch_of

STD, NONE = GroupAdvantage(), GroupAdvantage(scale="none")


def given() -> GroupBatch:
    return batch_of(
        [[1, 1, 0, 1]],
        partition_PG=torch.tensor([[0, 0, 2, 3]]),
        answers=[["7", "7", "8", "9"]],
        advantages_PG=torch.full((1, 4), 99.0),  # of the base rewards: must not be used
    )


def test_rewards_then_the_algorithm_then_changes_in_the_order_of_the_list() -> None:
    """DARLING, its own scale, then weights, then a bonus; by hand from the parts' own outputs."""
    batch = given()
    penalty = OutcomeExploration("batch", coefficient=1.0)
    found = Combined([penalty, EntropyBonus(0.02), Uniqueness(1.0), Darling()], STD)(batch)

    shaped = Darling()(batch)
    centred = shaped.rewards_PG - shaped.rewards_PG.mean()  # DARLING does not divide
    assert torch.equal(found.rewards_PG, shaped.rewards_PG)
    weights = torch.tensor([[0.75, 0.75, 1.0, 1.5]])  # clusters of 2 and 1 among the right ones
    collisions = torch.tensor([[-0.25, -0.25, 0.0, 0.0]])
    torch.testing.assert_close(found.advantages_PG, (centred + collisions) * weights)
    assert found.entropy_coef == 0.02
    assert set(found.diagnostics) == {
        "darling_diversity",
        "uniqueness_rarity_weight",
        "outcome_outcome_bonus",
    }
    assert found.metrics["darling/clusters"] == found.metrics["outcome/outcomes"] == 3


def test_changes_see_the_estimators_advantages() -> None:
    batch = given()
    estimated = MaxRL()(batch).advantages_PG
    penalty = OutcomeExploration("batch", coefficient=1.0)
    found = Combined([penalty, MaxRL()], STD)(batch).advantages_PG
    torch.testing.assert_close(found, estimated + torch.tensor([[-0.25, -0.25, 0.0, 0.0]]))


def test_without_a_change_the_algorithm_is_left_to_make_advantages() -> None:
    found = Combined([Darling(), EntropyBonus(0.02)], STD)(given())
    assert found.advantages_PG is None
    assert found.advantage_scale == "none"
    only_loss = Combined([EntropyBonus(0.02)], STD)(given())
    assert torch.equal(only_loss.rewards_PG, given().rewards_PG)


def test_changes_alone_start_from_the_algorithm_as_it_is_set() -> None:
    batch = given()
    for algorithm in (STD, NONE):
        plain, _ = algorithm(batch.rewards_PG, batch.rewards_PG)
        found = Combined([Uniqueness(alpha=0)], algorithm)(batch).advantages_PG
        torch.testing.assert_close(found, plain)


def test_a_response_takes_part_if_every_part_keeps_it() -> None:
    class FirstHalf(Stateless):
        name, level, needs = "first_half", LOSS, frozenset()

        def __call__(self, batch: GroupBatch) -> Shaped:
            keep_PG = torch.tensor([[True, True, True, False]])
            return Shaped(batch.rewards_PG, keep_PG=keep_PG, token_bonus=[torch.ones(1)] * 4)

    found = Combined([NegativeReinforcement("psr"), FirstHalf()], STD)(given())
    assert found.kept_PG.tolist() == [[True, True, False, False]]
    assert len(found.token_bonus) == 4


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([MaxRL(), PassK()], r"maxrl \(estimator\) and passk \(estimator\) cannot go together"),
        ([Darling(), MaxRL()], r"darling \(reward\) and maxrl \(estimator\)"),
        ([NoExploration(), Darling()], r"none \(reward\) and darling \(reward\)"),
        ([Uniqueness(), Uniqueness()], "different signals"),
        ([], "at least one"),
        ([ClipCov(), KLCov()], "clip_cov and kl_cov both set clip_low_T"),
        ([Combined([MaxRL()], STD)], "different signals"),
    ],
)
def test_conflicts_are_refused_before_training(parts: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Combined(parts, STD)


def test_conflicts_that_only_a_batch_shows_are_refused_by_name() -> None:
    class Bonus(EntropyBonus):
        name = "bonus"

    with pytest.raises(ValueError, match="bonus and a part before it both set an entropy bonus"):
        Combined([EntropyBonus(0.1), Bonus(0.1)], STD)(given())

    class Idle(NoExploration):
        name, level = "idle", ADVANTAGE

    with pytest.raises(ValueError, match="idle changes advantages, but gave none"):
        Combined([Idle()], STD)(given())


def test_needs_and_the_smallest_group_are_those_of_all_parts() -> None:
    both = Combined([PassK(k=6), OutcomeExploration()], STD)
    assert both.needs == {"advantages", "answers", "problem_ids"}
    assert both.smallest_group == 6


def test_states_of_parts_are_kept_by_name() -> None:
    batch = given()
    batch.problem_ids = ["p"]
    one, two = (Combined([MaxRL(), OutcomeExploration("ucb")], STD) for _ in range(2))
    one(batch)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one(batch).advantages_PG, two(batch).advantages_PG)
    with pytest.raises(ValueError, match=r"'passk'"):
        two.load_state_dict({"passk": {}, "outcome": {}})


def test_token_bonuses_add_up() -> None:
    assert added(None, None) is None
    [both] = added([torch.ones(2)], [torch.ones(2)])
    assert both.tolist() == [2.0, 2.0]


def test_token_plans_act_together() -> None:
    """Forking keeps the first token, KL-Cov anchors one of the two, entropy shifts both."""
    parts = [PassK(), ForkingTokens(0.5), KLCov(0.5), EntropyAdvantage()]
    both = Combined(parts, STD)
    view = probe_view()
    assert both.tokens is not None
    plan = both.tokens(view)
    assert plan.renormalise
    assert plan.weight_T.tolist() == [1.0, 0.0]
    assert torch.equal(plan.anchor_weight_T, KLCov(0.5).tokens(view).anchor_weight_T)
    assert plan.advantage_shift_T.tolist() == pytest.approx([0.4, 0.2])
    assert both.needs >= {"logps", "token_entropy"}


def test_without_such_a_part_no_tokens_are_planned() -> None:
    assert Combined([PassK()], STD).tokens is None


def test_a_combination_says_whether_it_gives_advantages() -> None:
    """What takes rewards from responses, as overlong shaping does, has to know."""
    for parts, level in (
        ([Darling(), EntropyBonus()], REWARD),
        ([Uniqueness()], ESTIMATOR),
        ([MaxRL(), ClipCov()], ESTIMATOR),
        ([ClipCov()], REWARD),
    ):
        assert Combined(parts, STD).level == level

"""Token plans: selection, what cannot be carried out, plans together, and the way to the loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from g2rl.exploration.token_plan import TokenPlan, TokenView, merge_plans, top_tokens
from g2rl.formulas.losses import PolicyLoss
from g2rl.training.token_plans import plan_tokens
from tests.exploration.tokens import loss_of, view_of


def test_the_largest_values_by_hand() -> None:
    values = torch.tensor([0.5, 2.0, -1.0, 2.0, 1.0])
    for count, expected in enumerate(
        ([0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 1, 1], [1, 1, 0, 1, 1])
    ):
        assert top_tokens(values, count).int().tolist() == expected


def test_values_nearer_than_the_resolution_are_ties_for_the_earlier_token() -> None:
    assert top_tokens(torch.tensor([1.0, 1.0 + 1e-6]), 1).tolist() == [True, False]
    assert top_tokens(torch.tensor([1.0, 1.001]), 1).tolist() == [False, True]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight_T": torch.ones(2)}, r"weight_T .* has the shape \(2,\), the mini-batch has 3"),
        ({"weight_T": torch.tensor([1.0, -1.0, 1.0])}, r"weight_T .* is -1.0 for 1 of 3 tokens"),
        ({"weight_T": torch.tensor([1.0, math.inf, 1.0])}, "weight_T .* is inf"),
        ({"clip_low_T": torch.tensor([1.0, math.nan, 1.0])}, "clip_low_T .* is nan"),
        ({"clip_high_T": torch.full((3,), -0.1)}, "clip_high_T .* for 3 of 3"),
        ({"anchor_weight_T": torch.full((3,), -0.1)}, "anchor_weight_T"),
        ({"advantage_shift_T": torch.full((3,), math.nan)}, "advantage_shift_T .* is nan"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_by_name(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"exploration=mine: {message}"):
        TokenPlan(**fields).check("mine", 3)
    TokenPlan(
        weight_T=torch.zeros(3),
        clip_low_T=torch.full((3,), math.inf),
        advantage_shift_T=-torch.ones(3),
        anchor_logps_T=-torch.ones(3),
    ).check("mine", 3)


def test_plans_act_together() -> None:
    half, shift = torch.full((2,), 0.5), torch.tensor([1.0, -2.0])
    merged = merge_plans(
        [
            ("a", TokenPlan(weight_T=half, advantage_shift_T=shift, metrics={"a": 1.0})),
            ("b", TokenPlan(weight_T=shift.abs(), advantage_shift_T=shift, renormalise=True)),
            ("c", TokenPlan(anchor_weight_T=half, anchor_kind="abs", clip_low_T=half)),
        ]
    )
    assert merged.weight_T.tolist() == [0.5, 1.0]
    assert merged.advantage_shift_T.tolist() == [2.0, -4.0]
    assert merged.renormalise
    assert merged.anchor_kind == "abs"
    assert merged.clip_low_T is half
    assert merged.metrics == {"a": 1.0}
    assert merge_plans([]) == TokenPlan()


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ({"clip_low_T": torch.ones(1)}, {"clip_low_T": torch.ones(1)}, "both set clip_low_T"),
        ({"clip_high_T": torch.ones(1)}, {"clip_high_T": torch.ones(1)}, "both set clip_high_T"),
        (
            {"anchor_weight_T": torch.ones(1)},
            {"anchor_weight_T": torch.ones(1)},
            "both set anchor_weight_T",
        ),
        ({"renormalise": True}, {"renormalise": True}, "all renormalise"),
    ],
)
def test_conflicts_of_two_plans_are_refused(
    one: dict[str, Any], other: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        merge_plans([("a", TokenPlan(**one)), ("b", TokenPlan(**other))])


def test_renormalised_weights_keep_the_weight_of_the_mini_batch() -> None:
    """Rows of 2 and 1 tokens that weigh 0.25 and 0.5: 1 in all, of which 0.75 is kept."""
    view = view_of([1.0, 1.0, 1.0], [-1.0] * 3, lengths=[2, 1])
    keep = torch.tensor([1.0, 0.0, 1.0])
    planned = plan_tokens(
        lambda _: TokenPlan(weight_T=keep, renormalise=True),
        view,
        [4, 7],
        torch.tensor([0.25, 0.5]),
    )
    weights_T = planned.tokens_of([4, 7])["plan_weights_T"]
    torch.testing.assert_close(weights_T, keep / 0.75)
    assert planned.tokens_of([7])["plan_weights_T"].tolist() == pytest.approx([1 / 0.75])
    nothing = plan_tokens(
        lambda _: TokenPlan(weight_T=0 * keep, renormalise=True), view, [4, 7], torch.ones(2)
    )
    assert nothing.tokens_of([4, 7])["plan_weights_T"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("place", ["advantages", "logps", "entropies"])
def test_numbers_that_are_not_finite_make_the_update_bad_and_no_plan(place: str) -> None:
    """A comparison with NaN is false, so a plan made of NaN would look like a good one."""
    numbers: dict[str, list[float]] = {
        "advantages": [1.0, -1.0],
        "logps": [-1.0, -2.0],
        "entropies": [0.5, 0.5],
    }
    numbers[place][1] = math.nan
    view = view_of(**numbers)

    def never(_: TokenView) -> TokenPlan:
        raise AssertionError("the signal must not see numbers that are not finite")

    planned = plan_tokens(never, view, [0], torch.ones(1))
    assert planned.tokens_of([0])["plan_weights_T"].isnan().tolist() == [False, True]
    finite = view_of([1.0, -1.0], [-1.0, -2.0], [0.5, 0.5])
    logps_T = finite.old_logps_T
    plan = TokenPlan(weight_T=torch.tensor([1.0, math.nan]))
    assert loss_of(lambda _: plan, finite, logps_T, logps_T, PolicyLoss(kl_coef=0.0)).isnan()


def test_random_numbers_are_a_function_of_the_key() -> None:
    draws = [
        view_of([0.0], [0.0], key=key).generator().random(3).tolist() for key in ((1,), (1,), (2,))
    ]
    assert draws[0] == draws[1] != draws[2]

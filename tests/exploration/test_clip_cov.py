"""Clip-Cov against verl's own loss, and on covariances worked by hand."""

from __future__ import annotations

import pytest
import torch

from g2rl.exploration.clip_cov import ClipCov
from g2rl.exploration.token_plan import token_covariance
from g2rl.formulas.losses import PolicyLoss
from tests.exploration.tokens import (
    assert_finite,
    degenerate_views,
    loss_of,
    random_view,
    view_of,
)
from tests.exploration.verl_losses import verl_loss

ADVANTAGES, LOGPS = [3.0, 3.0, -1.0, -1.0], [-1.0, -3.0, -3.0, -5.0]
"""Means 1 and -3, so the covariances are 2·2, 2·0, -2·0 and -2·-2."""
COVARIANCES = [4.0, 0.0, 0.0, 4.0]


def test_covariances_by_hand() -> None:
    found = token_covariance(torch.tensor(ADVANTAGES), torch.tensor(LOGPS))
    assert found.tolist() == COVARIANCES


@pytest.mark.parametrize(
    ("low", "high", "left_out"),
    [
        (1.0, 5.0, 1),  # two candidates, and max(1, floor(0.25 * 4)) = 1 is drawn
        (4.0, 5.0, 0),  # the interval is open
        (1.0, 4.0, 0),
        (5.0, 9.0, 0),  # trap (f): on this policy no token reaches the bound
    ],
)
def test_tokens_between_the_bounds_are_left_out(low: float, high: float, left_out: int) -> None:
    view = view_of(ADVANTAGES, LOGPS)
    plan = ClipCov(share=0.25, cov_low=low, cov_high=high).tokens(view)
    assert plan.weight_T is not None
    assert int((plan.weight_T == 0).sum()) == left_out
    assert plan.metrics["clip_cov_left_out"] == left_out / 4
    assert plan.metrics["clip_cov_candidates"] == (2 if left_out else 0) / 4
    for n in (1, 2):
        assert plan.weight_T[n] == 1


def test_at_least_one_token_is_left_out_and_not_more_than_the_share() -> None:
    view = view_of(ADVANTAGES * 5, LOGPS * 5)
    for share, count in ((1e-6, 1), (0.1, 2), (0.24, 4), (1.0, 10)):
        plan = ClipCov(share=share).tokens(view)
        assert int((plan.weight_T == 0).sum()) == count


def test_the_draw_is_a_function_of_the_key() -> None:
    one, same, other = (
        ClipCov(share=0.1).tokens(view_of(ADVANTAGES * 25, LOGPS * 25, key=key)).weight_T
        for key in ((1, 2), (1, 2), (1, 3))
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_ratio_bounds_are_those_of_the_recipe() -> None:
    """Trap (b): the scripts clip at 0 and 2; under the usual 0.8 and 1.2 it is another method."""
    view = view_of(ADVANTAGES, LOGPS)
    plan = ClipCov().tokens(view)
    assert plan.clip_low_T.tolist() == plan.clip_high_T.tolist() == [1.0] * 4
    kept = ClipCov(clip_low=None, clip_high=None).tokens(view)
    assert kept.clip_low_T is kept.clip_high_T is None


def test_the_loss_is_verls_where_all_candidates_are_left_out() -> None:
    """On-policy, so that both select with the same log-probabilities; traps (b) and (d)."""
    theirs = verl_loss("clip_cov", clip_cov_ratio=1.0, clip_cov_lb=0.5, clip_cov_ub=2.0)
    view = random_view(0)
    logps_T = view.old_logps_T.clone().requires_grad_(True)
    signal = ClipCov(share=1.0, cov_low=0.5, cov_high=2.0)
    assert 0 < int((signal.tokens(view).weight_T == 0).sum()) < 60
    found = loss_of(signal.tokens, view, logps_T, view.old_logps_T, PolicyLoss(kl_coef=0.0))
    expected = theirs(
        view.old_logps_T[None], logps_T[None], view.advantages_T[None], torch.ones(1, 60)
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    mine, oracle = (torch.autograd.grad(loss, logps_T)[0] for loss in (found, expected))
    torch.testing.assert_close(mine, oracle, rtol=1e-6, atol=1e-8)
    assert (mine == 0).any()


def test_the_loss_is_divided_by_all_tokens() -> None:
    """Leaving a token out does not make the others weigh more."""
    view = view_of([3.0, 1.0, -1.0], [-1.0, -2.0, -3.0])  # covariances 2, 0, 2
    signal = ClipCov(share=1.0)
    found = loss_of(
        signal.tokens, view, view.old_logps_T, view.old_logps_T, PolicyLoss(kl_coef=0.0)
    )
    assert found.item() == pytest.approx(-1.0 / 3)


def test_degenerate_mini_batches_give_a_plan_without_nan() -> None:
    signal = ClipCov(share=0.5, cov_low=0.0)
    for view in degenerate_views():
        assert_finite(signal.tokens(view), view)


@pytest.mark.parametrize(
    "bad", [{"share": 0.0}, {"share": 1.1}, {"cov_low": 5.0}, {"clip_low": -1.0}]
)
def test_settings_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"exploration\."):
        ClipCov(**bad)

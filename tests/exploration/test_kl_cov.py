"""KL-Cov against verl's own loss, and by hand."""

from __future__ import annotations

import math

import pytest
import torch

from g2rl.exploration.kl_cov import KLCov
from g2rl.formulas.losses import PolicyLoss
from tests.exploration.tokens import (
    assert_finite,
    degenerate_views,
    loss_of,
    random_view,
    view_of,
)
from tests.exploration.verl_losses import verl_loss

VIEW = view_of([3.0, 3.0, -1.0, -1.0], [-1.0, -3.0, -3.5, -4.5])
"""Means 1 and -3: covariances 2·2 = 4, 0, -2·-0.5 = 1 and -2·-1.5 = 3."""


@pytest.mark.parametrize(
    ("share", "anchored"),
    [(1e-6, [1, 0, 0, 0]), (0.5, [1, 0, 0, 1]), (0.75, [1, 0, 1, 1]), (0.74, [1, 0, 0, 1])],
)
def test_the_largest_covariances_are_anchored(share: float, anchored: list[int]) -> None:
    plan = KLCov(share=share, coefficient=0.7).tokens(VIEW)
    assert plan.anchor_weight_T.tolist() == pytest.approx([0.7 * one for one in anchored])
    assert plan.anchor_kind == "abs"
    assert plan.metrics["kl_cov_anchored"] == sum(anchored) / 4


def test_the_loss_by_hand() -> None:
    """-A rho + kappa |log rho| on the first token, -A rho without clipping on the others."""
    logps_T = VIEW.old_logps_T + torch.tensor([1.0, 2.0, -1.0, 0.5])
    found = loss_of(
        KLCov(share=0.25, coefficient=2.0).tokens,
        VIEW,
        logps_T,
        VIEW.old_logps_T,
        PolicyLoss(kl_coef=0.0, clip_low=0.2, clip_high=0.2),
    )
    e = math.exp
    assert found.item() == pytest.approx(
        (-3 * e(1) + 2 * 1 - 3 * e(2) + e(-1) + e(0.5)) / 4, rel=1e-6
    )


def test_the_default_share_is_that_of_the_authors_script() -> None:
    """Trap (a): verl's default is ten times smaller than the 0.2 percent of the 7B script."""
    assert KLCov().share == 0.002


def test_nothing_is_clipped_unless_asked_for() -> None:
    """Trap (b): on top of clip 0.2 it is another method."""
    plan = KLCov().tokens(VIEW)
    assert plan.clip_low_T.tolist() == plan.clip_high_T.tolist() == [math.inf] * 4
    assert KLCov(unclipped=False).tokens(VIEW).clip_low_T is None


def test_the_first_update_of_a_batch_is_the_plain_gradient() -> None:
    """Trap (e): |log rho| has slope 0 at log rho = 0."""
    logps_T = VIEW.old_logps_T.clone().requires_grad_(True)
    loss = loss_of(
        KLCov(share=1.0).tokens, VIEW, logps_T, logps_T.detach(), PolicyLoss(kl_coef=0.0)
    )
    loss.backward()
    torch.testing.assert_close(logps_T.grad, -VIEW.advantages_T / 4)


@pytest.mark.parametrize("share", [0.002, 0.1, 0.5])
def test_loss_and_gradient_are_verls(share: float) -> None:
    """Off-policy. verl selects with the current log-probabilities, so the view holds those here."""
    theirs = verl_loss("kl_cov", kl_cov_ratio=share, ppo_kl_coef=1.3)
    view = random_view(1)
    logps_T = view.old_logps_T.clone().requires_grad_(True)
    rng = torch.Generator().manual_seed(3)
    old_T = logps_T.detach() + 0.7 * torch.randn(60, generator=rng, dtype=torch.float64)
    found = loss_of(
        KLCov(share=share, coefficient=1.3).tokens,
        view,
        logps_T,
        old_T,
        PolicyLoss(kl_coef=0.0),
    )
    expected = theirs(old_T[None], logps_T[None], view.advantages_T[None], torch.ones(1, 60))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    mine, oracle = (torch.autograd.grad(loss, logps_T)[0] for loss in (found, expected))
    torch.testing.assert_close(mine, oracle, rtol=1e-6, atol=1e-8)


def test_degenerate_mini_batches_give_a_plan_without_nan() -> None:
    signal = KLCov(share=0.3)
    for view in degenerate_views():
        assert_finite(signal.tokens(view), view)


@pytest.mark.parametrize("bad", [{"share": 0.0}, {"share": 1.1}, {"coefficient": -1.0}])
def test_settings_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"exploration\."):
        KLCov(**bad)

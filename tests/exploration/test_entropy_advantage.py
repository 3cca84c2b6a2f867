"""Entropy-based advantage by hand."""

from __future__ import annotations

import pytest
import torch

from g2rl.exploration.entropy_advantage import EntropyAdvantage
from g2rl.formulas.losses import PolicyLoss
from tests.exploration.tokens import assert_finite, degenerate_views, loss_of, view_of

VIEW = view_of([2.0, 2.0, -1.0, -1.0, 0.0], [-1.0] * 5, [1.0, 5.0, 1.0, 5.0, 9.0])


def test_the_shift_by_hand() -> None:
    """min(0.4 H, |A| / 2): 0.4, 1 (bounded), 0.4, 0.5 (bounded), and 0 where A = 0."""
    plan = EntropyAdvantage().tokens(VIEW)
    assert plan.advantage_shift_T.tolist() == pytest.approx([0.4, 1.0, 0.4, 0.5, 0.0])
    assert plan.metrics["entropy_advantage"] == pytest.approx(2.3 / 5)


def test_wrong_tokens_of_high_entropy_are_punished_less_and_never_reinforced() -> None:
    """The trap: the shift is >= 0, so it softens punishment as well."""
    rng = torch.Generator().manual_seed(0)
    advantages_T = torch.randn(500, generator=rng)
    entropies_T = 3 * torch.rand(500, generator=rng)
    plan = EntropyAdvantage(kappa=1.5).tokens(view_of(advantages_T, advantages_T, entropies_T))
    assert (plan.advantage_shift_T >= 0).all()
    shifted_T = advantages_T + plan.advantage_shift_T
    assert torch.equal(shifted_T.sign(), advantages_T.sign())


def test_the_shifted_advantage_enters_the_loss_without_a_gradient_through_the_entropy() -> None:
    logps_T = VIEW.old_logps_T.clone().requires_grad_(True)
    entropy_T = VIEW.entropy_T.clone().requires_grad_(True)
    view = view_of(VIEW.advantages_T, VIEW.old_logps_T, entropy_T.detach())
    loss = loss_of(
        EntropyAdvantage().tokens, view, logps_T, logps_T.detach(), PolicyLoss(kl_coef=0.0)
    )
    loss.backward()
    shifted = [2.4, 3.0, -0.6, -0.5, 0.0]
    assert loss.item() == pytest.approx(-sum(shifted) / 5)
    assert logps_T.grad.tolist() == pytest.approx([-a / 5 for a in shifted])
    assert entropy_T.grad is None


def test_degenerate_mini_batches_give_a_plan_without_nan() -> None:
    for view in degenerate_views():
        assert_finite(EntropyAdvantage().tokens(view), view)


@pytest.mark.parametrize("bad", [{"alpha": -0.1}, {"kappa": 1.0}])
def test_settings_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"exploration\."):
        EntropyAdvantage(**bad)

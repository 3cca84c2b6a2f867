"""Updates under a token plan: the same for every micro-batch size, and what becomes of the plan."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from g2rl.exploration.clip_cov import ClipCov
from g2rl.exploration.entropy_advantage import EntropyAdvantage
from g2rl.exploration.forking_tokens import ForkingTokens
from g2rl.exploration.kl_cov import KLCov
from g2rl.exploration.token_plan import TokenPlan, TokenView
from g2rl.formulas.losses import PolicyLoss
from g2rl.policy.batching import Sequences
from g2rl.policy.lm_head import head
from g2rl.policy.loading import load
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScorePlan, ScoreRequest, score
from g2rl.training.micro_batch_update import BehaviourSource, UpdateBatch
from g2rl.training.optimizer import OptimizerSettings
from g2rl.training.updater import Updater

SIGNALS: dict[str, Any] = {
    "clip_cov": ClipCov(share=0.3, cov_low=0.01, cov_high=99.0),
    "kl_cov": KLCov(share=0.3, coefficient=0.5),
    "forking_tokens": ForkingTokens(),
    "entropy_advantage": EntropyAdvantage(),
}
PROMPT = [1, 3, 27, 30, 5]
RESPONSES = [[20, 24, 14, 25, 2], [20, 29, 2], [10, 25, 14, 24, 13, 2], [], [9], [9], [6, 26, 2]]


def updater_of(budget: int, epochs: int = 2, loss: PolicyLoss | None = None) -> Updater:
    return Updater(
        Policy(load("builtin:tiny", device="cpu").model),
        loss or PolicyLoss(kl_coef=0.0),
        OptimizerSettings(
            lr=1e-2, eps=1e-2, mini_batches=2, epochs=epochs, micro_batch_tokens=budget
        ),
        temperature=0.9,
        max_tokens=20,
        total_updates=10,
        seed=0,
    )


def batch_of(updater: Updater, planner: Any) -> UpdateBatch:
    count = len(RESPONSES)
    sequences = Sequences([PROMPT] * count, RESPONSES)
    return UpdateBatch(
        sequences=sequences,
        group_N=torch.tensor([0, 0, 0, 1, 1, 1, 1]),
        advantages_N=torch.linspace(-1, 1.4, count),
        behaviour=score(updater.policy, sequences, ScoreRequest(0.9, 60)),
        token_planner=planner,
    )


def after_a_step(planner: Any, budget: int, loss: PolicyLoss | None = None) -> tuple[Tensor, Any]:
    updater = updater_of(budget, loss=loss)
    metrics = updater.step(batch_of(updater, planner), 3).metrics
    return torch.cat([p.detach().flatten() for p in updater.policy.parameters()]), metrics


@pytest.mark.parametrize("name", SIGNALS)
def test_an_update_is_the_same_for_every_micro_batch_size(name: str) -> None:
    """Two epochs of two mini-batches. verl's Clip-Cov and KL-Cov differ: their means run over the
    micro-batch (trap d)."""
    planner = SIGNALS[name].tokens
    one_by_one, metrics = after_a_step(planner, 1)
    whole, metrics_of_whole = after_a_step(planner, 1000)
    plain, _ = after_a_step(None, 1000)
    torch.testing.assert_close(whole, one_by_one, rtol=1e-3, atol=2e-5)
    assert metrics_of_whole == pytest.approx(metrics, rel=1e-3, abs=1e-5)
    assert (whole - plain).abs().max() > 1e-3, "the plan did nothing"


def test_a_fused_head_follows_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "FUSE_FROM", 1 << 30)
    plain, _ = after_a_step(SIGNALS["kl_cov"].tokens, 1000)
    calls: list[int] = []
    real = head._fused
    monkeypatch.setattr(head, "_fused", lambda *args: calls.append(1) or real(*args))
    monkeypatch.setattr(head, "FUSE_FROM", 0)
    fused, _ = after_a_step(SIGNALS["kl_cov"].tokens, 1000)
    assert calls
    torch.testing.assert_close(fused, plain, rtol=1e-3, atol=2e-4)


def test_a_plan_that_asks_for_nothing_changes_no_bit() -> None:
    def ones(view: TokenView) -> TokenPlan:
        count = view.token_count
        return TokenPlan(
            weight_T=torch.ones(count),
            clip_low_T=torch.full((count,), 0.2),
            clip_high_T=torch.full((count,), 0.2),
            advantage_shift_T=torch.zeros(count),
            anchor_weight_T=torch.zeros(count),
        )

    assert torch.equal(after_a_step(ones, 60)[0], after_a_step(None, 60)[0])


def test_the_plan_is_made_once_for_every_mini_batch_from_all_of_its_tokens() -> None:
    views: list[TokenView] = []

    def watching(view: TokenView) -> TokenPlan:
        views.append(view)
        return TokenPlan(metrics={"seen": float(view.token_count)})

    _, metrics = after_a_step(watching, 1)
    lengths = [5 + 3 + 6, 0 + 1 + 1 + 3]
    assert sorted(view.token_count for view in views) == sorted(2 * lengths)
    assert metrics["seen"] == sum(lengths) / 2
    assert len({view.key for view in views}) == 4
    for view in views:
        assert view.segments_T.unique().tolist() in ([0, 1, 2], [1, 2, 3])  # one is empty
        assert torch.equal(view.advantages_T, view.advantages_T.float())


def test_token_bonus_and_shift_both_enter_the_advantage() -> None:
    seen: list[TokenView] = []

    def shifting(view: TokenView) -> TokenPlan:
        seen.append(view)
        return TokenPlan(advantage_shift_T=torch.full((view.token_count,), 0.25))

    both, plain = updater_of(1000, epochs=1), updater_of(1000, epochs=1)
    batch, expected = batch_of(both, shifting), batch_of(plain, None)
    batch.token_bonus = [torch.full((len(r),), 0.5) for r in RESPONSES]
    expected.advantages_N = expected.advantages_N + 0.75
    both.step(batch, 0)
    plain.step(expected, 0)
    for a, b in zip(both.policy.parameters(), plain.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    rows = batch.group_N[:3].numel()
    advantages = batch.advantages_N[:rows] + 0.5
    view = next(view for view in seen if view.token_count == 14)
    torch.testing.assert_close(view.advantages_T, advantages[view.segments_T])


def test_a_bad_number_under_a_plan_skips_the_update_and_is_counted() -> None:
    updater = updater_of(1000)
    batch = batch_of(updater, SIGNALS["clip_cov"].tokens)
    batch.behaviour.entropies[0][1] = torch.nan  # which enters no loss by itself
    metrics = updater.step(batch, 0).metrics
    assert metrics["skipped"] == 0.5


def test_every_response_must_have_been_scored() -> None:
    updater = updater_of(1000)
    batch = batch_of(updater, SIGNALS["forking_tokens"].tokens)
    late = updater.rows_to_score(batch.group_N, 0)
    request = ScoreRequest(0.9, 60, plan=ScorePlan([late]))
    batch.behaviour = score(updater.policy, batch.sequences, request)
    with pytest.raises(ValueError, match="are not scored yet"):
        updater.step(batch, 0)


def test_the_anchor_of_the_first_update_is_its_own_forward() -> None:
    """Trap (e) of KL-Cov: scores of another forward differ by rounding, and |.| would make a slope
    of ±1 of it."""
    unclipped = PolicyLoss(kl_coef=0.0, clip_low=1.0, clip_high=1e9)
    anchored, plain = updater_of(7, epochs=1), updater_of(7, epochs=1, loss=unclipped)
    one, other = (
        batch_of(anchored, KLCov(share=1.0, coefficient=5.0).tokens),
        batch_of(plain, None),
    )
    rows = anchored._mini_batches(one.group_N, 0, 0)[0]
    gradients = []
    for updater, batch in ((anchored, one), (plain, other)):
        mini_batch = updater._mini_batch(batch, rows, BehaviourSource.UPDATE_FORWARD)
        updater._accumulate_gradients(batch, batch.behaviour.copy(), mini_batch)
        gradients.append([p.grad for p in updater.policy.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)

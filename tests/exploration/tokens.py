"""Views of tokens for the tests of token-level signals, and the loss that a plan leads to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from g2rl.exploration.token_plan import TokenPlan, TokenPlanner, TokenView
from g2rl.formulas.losses import LossInputs, PolicyLoss
from g2rl.training.token_plans import plan_tokens


def view_of(
    advantages: Sequence[float] | Tensor,
    logps: Sequence[float] | Tensor,
    entropies: Sequence[float] | Tensor | None = None,
    lengths: Sequence[int] | None = None,
    key: tuple[int, ...] = (0,),
) -> TokenView:
    """A view of one response, or of several of the given lengths."""
    advantages_T, logps_T = torch.as_tensor(advantages), torch.as_tensor(logps)
    lengths = [advantages_T.numel()] if lengths is None else lengths
    return TokenView(
        advantages_T=advantages_T,
        old_logps_T=logps_T,
        entropy_T=torch.zeros_like(logps_T) if entropies is None else torch.as_tensor(entropies),
        segments_T=torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
        group_B=torch.zeros(len(lengths), dtype=torch.int64),
        key=key,
    )


def random_view(seed: int, tokens: int = 60) -> TokenView:
    """Distinct numbers in float64: two responses."""
    rng = torch.Generator().manual_seed(seed)
    numbers = torch.randn(3, tokens, generator=rng, dtype=torch.float64)
    return view_of(
        2 * numbers[0], -numbers[1].abs() * 2, numbers[2].abs(), [tokens // 3, tokens - tokens // 3]
    )


def degenerate_views(count: int = 2000) -> Iterator[TokenView]:
    """Views with ties, zeros, extremes, one token, empty responses."""
    rng = torch.Generator().manual_seed(7)
    values = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, -1e30, 0.3, 1.3, 1e-7])
    for number in range(count):
        lengths = torch.randint(0, 5, (3,), generator=rng).tolist()
        lengths[number % 3] += 1
        picks = torch.randint(0, len(values), (3, sum(lengths)), generator=rng)
        advantages, logps, entropies = values[picks]
        if number % 4 == 0:
            advantages = torch.zeros_like(advantages)
        yield view_of(advantages, -logps.abs(), entropies.abs(), lengths, (number,))


def assert_finite(plan: TokenPlan, view: TokenView) -> None:
    """The plan can be carried out, and nothing in it is NaN."""
    plan.check("test", view.token_count)
    assert all(math.isfinite(value) for value in plan.metrics.values())


def loss_of(
    planner: TokenPlanner,
    view: TokenView,
    logps_T: Tensor,
    old_logps_T: Tensor,
    loss: PolicyLoss,
) -> Tensor:
    """The token-mean loss of a mini-batch under a plan, as the updater takes it."""
    count = view.token_count
    rows = list(range(view.group_B.numel()))
    share_T = torch.full((count,), 1 / count, dtype=logps_T.dtype)
    planned = plan_tokens(planner, view, rows, torch.full((len(rows),), 1 / count))
    advantages_T = view.advantages_T
    if planned.shifts is not None:
        advantages_T = advantages_T + torch.cat([planned.shifts[n] for n in rows])
    return loss(
        LossInputs(
            logps_T=logps_T,
            old_logps_T=old_logps_T,
            advantages_T=advantages_T,
            weights_T=share_T,
            segments_T=view.segments_T,
            rows=len(rows),
            entropy_T=view.entropy_T,
            token_share_T=share_T,
            anchor_kind=planned.anchor_kind,
            **planned.tokens_of(rows),
        )
    )[0]

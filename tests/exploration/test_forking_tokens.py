"""80/20 against TRL's own mask and the authors' count, and by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from g2rl.exploration.forking_tokens import ForkingTokens
from g2rl.formulas.losses import PolicyLoss
from tests.exploration.tokens import (
    assert_finite,
    degenerate_views,
    loss_of,
    random_view,
    view_of,
)


def kept(entropies: list[float], lengths: list[int] | None = None, **settings: Any) -> list[int]:
    zeros = [0.0] * len(entropies)
    plan = ForkingTokens(**settings).tokens(view_of(zeros, zeros, entropies, lengths))
    return plan.weight_T.int().tolist()


def test_the_highest_fifth_by_hand() -> None:
    assert kept([0.1, 2.0, 0.3, 0.2, 0.05]) == [0, 1, 0, 0, 0]
    assert kept([0.1, 2.0, 0.3, 0.2, 0.05, 0.4]) == [0, 1, 0, 0, 0, 1]  # ceil(6 / 5)
    assert kept([0.7]) == [1]


@pytest.mark.parametrize("count", range(1, 40))
def test_the_count_is_the_authors(count: int) -> None:
    """int(0.2 n + 0.9999), at least 1, as in get_global_entropy_top_mask."""
    entropies = torch.rand(count, generator=torch.Generator().manual_seed(count)).tolist()
    assert sum(kept(entropies)) == max(1, int(count * 0.2 + 0.9999))


def test_ties_are_cut_by_the_code_and_kept_by_the_paper() -> None:
    tied = [1.0, 0.5, 1.0, 1.0, 0.1]
    assert kept(tied) == [1, 0, 0, 0, 0]
    assert kept(tied, rule="threshold") == [1, 0, 1, 1, 0]


@pytest.mark.parametrize("rule", ["topk", "threshold"])
def test_rounding_does_not_decide_between_ties(rule: str) -> None:
    """Two micro-batches give the first token of a group entropies that differ by 1e-7."""
    tied = torch.tensor([1.0, 0.5, 1.0, 1.0, 0.1, 0.2], dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    expected = kept(tied.tolist(), rule=rule, share=0.3)
    for _ in range(20):
        noise = 1e-7 * torch.randn(6, generator=rng, dtype=torch.float64)
        assert kept((tied + noise).tolist(), rule=rule, share=0.3) == expected


def test_tokens_are_ranked_in_the_batch_or_in_each_response() -> None:
    entropies, lengths = [0.1, 0.2, 5.0, 6.0], [2, 2]
    assert kept(entropies, lengths, share=0.5) == [0, 0, 1, 1]
    assert kept(entropies, lengths, share=0.5, scope="response") == [0, 1, 0, 1]


def test_a_kept_token_weighs_five_times_as_much_only_if_renormalised() -> None:
    """The trap: the authors' mask enters the mean, TRL's does not."""
    view = view_of([1.0] * 5, [-1.0] * 5, [0.1, 2.0, 0.3, 0.2, 0.05])
    for renormalise, loss in ((True, -1.0), (False, -0.2)):
        found = loss_of(
            ForkingTokens(renormalise=renormalise).tokens,
            view,
            view.old_logps_T,
            view.old_logps_T,
            PolicyLoss(kl_coef=0.0),
        )
        assert found.item() == pytest.approx(loss)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.37, 1.0])
@pytest.mark.parametrize("tokens", [30, 60, 61])
def test_the_mask_is_trls(share: float, tokens: int) -> None:
    trl = pytest.importorskip("trl")
    view = random_view(2, tokens)
    first = int((view.segments_T == 0).sum())
    entropy_T = view.entropy_T.float()  # in which TRL takes its quantile
    view = replace(view, entropy_T=entropy_T)
    rows = [entropy_T[:first], entropy_T[first:]]
    entropies = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(r)) for r in rows], batch_first=True)
    alone = SimpleNamespace(
        accelerator=SimpleNamespace(
            device="cpu",
            pad_across_processes=lambda values, **_: values,
            gather=lambda values: values,
        )
    )
    theirs = trl.GRPOTrainer.get_high_entropy_mask(alone, entropies, mask, 1 - share)
    mine = ForkingTokens(share=share, rule="threshold").tokens(view).weight_T.bool()
    assert torch.equal(mine, theirs[mask.bool()])


def test_degenerate_mini_batches_give_a_plan_without_nan() -> None:
    for rule, scope in (("topk", "batch"), ("threshold", "response")):
        signal = ForkingTokens(rule=rule, scope=scope)
        for view in degenerate_views(1000):
            assert_finite(signal.tokens(view), view)


@pytest.mark.parametrize("bad", [{"share": 0.0}, {"share": 1.1}, {"rule": "x"}, {"scope": "x"}])
def test_settings_are_checked(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"exploration\."):
        ForkingTokens(**bad)

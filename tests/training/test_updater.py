"""The optimizer step: schedule, mini-batches of whole groups, numbers gone bad."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from g2rl.engines.rollouts import Rollouts
from g2rl.formulas.losses import PolicyLoss
from g2rl.policy import batching
from g2rl.policy.batching import CALL_TOKENS, Sequences, plan_micro_batches
from g2rl.policy.lm_head import head
from g2rl.policy.loading import load
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScorePlan, ScoreRequest, require_scored, score
from g2rl.policy.sharding import ShardSettings
from g2rl.training.micro_batch_update import BehaviourSource, UpdateBatch
from g2rl.training.optimizer import OptimizerSettings
from g2rl.training.updater import UpdateError, Updater
from g2rl.types import Completion, Problem
from g2rl.world import World


def make(settings: OptimizerSettings, loss: PolicyLoss | None = None) -> Updater:
    policy = Policy(load("builtin:tiny").model)
    return Updater(
        policy,
        loss or PolicyLoss(kl_coef=0.0),
        settings,
        temperature=1.0,
        max_tokens=20,
        total_updates=10,
        seed=0,
    )


def batch_for(updater: Updater, advantages: list[float]) -> UpdateBatch:
    count = len(advantages)
    responses = [[23 + i % 9, 34, 2][: 1 + i % 3] for i in range(count)]
    sequences = Sequences([[1, 3, 27, 30, 5]] * count, responses)
    behaviour = score(updater.policy, sequences, ScoreRequest(temperature=1.0, token_budget=1000))
    return UpdateBatch(
        sequences=sequences,
        group_N=torch.arange(count) // 2,
        advantages_N=torch.tensor(advantages),
        behaviour=behaviour,
    )


def test_learning_rate_by_hand() -> None:
    linear = OptimizerSettings(lr=1.0, warmup_updates=2, schedule="linear")
    assert [linear.learning_rate(u, 6) for u in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    cosine = OptimizerSettings(lr=1.0, schedule="cosine")
    assert cosine.learning_rate(0, 4) == 1.0
    assert cosine.learning_rate(2, 4) == pytest.approx(0.5)
    assert cosine.learning_rate(1, 4) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert OptimizerSettings(lr=3.0).learning_rate(100, 10) == 3.0


def test_mini_batches_are_whole_groups_and_change_with_the_step() -> None:
    updater = make(OptimizerSettings(mini_batches=3))
    batch = batch_for(updater, [1.0] * 12)
    first = updater._mini_batches(batch.group_N, 0, 0)
    assert sorted(n for rows in first for n in rows) == list(range(12))
    for rows in first:
        assert all((n ^ 1) in rows for n in rows), "a group of two was split"
    assert first == updater._mini_batches(batch.group_N, 0, 0)
    assert any(first != updater._mini_batches(batch.group_N, step, 0) for step in range(1, 5))


def test_each_mini_batch_is_one_optimizer_update() -> None:
    updater = make(OptimizerSettings(mini_batches=3, epochs=2))
    metrics = updater.step(batch_for(updater, [1.0, -1.0] * 6), 0).metrics
    assert updater.updates == 6
    assert metrics["updates"] == 6


def test_later_mini_batches_are_off_policy_and_the_first_is_not() -> None:
    updater = make(OptimizerSettings(lr=1e-2, mini_batches=1))
    batch = batch_for(updater, [1.0, -1.0, 1.0, -1.0])
    assert updater.step(batch, 0).metrics["ratio"] == pytest.approx(1.0, abs=1e-5)
    batch.first_source = BehaviourSource.SCORES
    assert abs(updater.step(batch, 1).metrics["ratio"] - 1.0) > 1e-3


def test_the_update_raises_what_has_positive_advantage() -> None:
    updater = make(OptimizerSettings(lr=1e-3, mini_batches=1))
    batch = batch_for(updater, [1.0, -1.0, 1.0, -1.0])
    updater.step(batch, 0)
    new = score(
        updater.policy, batch.sequences, ScoreRequest(temperature=1.0, token_budget=1000)
    ).logps
    change = [float((n - o).sum()) for n, o in zip(new, batch.behaviour.logps, strict=True)]
    assert change[0] > 0 > change[1]


def test_a_bad_gradient_skips_the_update_is_counted_and_then_stops() -> None:
    updater = make(OptimizerSettings(mini_batches=1, max_bad_updates=2))
    batch = batch_for(updater, [1.0, float("nan")])
    before = [p.clone() for p in updater.policy.parameters()]
    metrics = updater.step(batch, 0).metrics
    assert metrics["skipped"] == 1.0
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(torch.equal(a, b) for a, b in zip(before, updater.policy.parameters(), strict=True))
    with pytest.raises(
        UpdateError, match=r"step 1: 2 updates in a row.*non-finite loss in groups \[0\]"
    ) as stop:
        updater.step(batch, 1)
    assert stop.value.groups == [0]
    assert stop.value.tensors["advantages_N"].isnan().tolist() == [False, True]


def test_batches_that_cannot_be_learnt_from_count_like_bad_updates() -> None:
    updater = make(OptimizerSettings(mini_batches=2, max_bad_updates=2))
    assert updater.skip(1, "a NaN", [3]) == {"skipped": 1.0, "updates": 2.0}
    updater.step(batch_for(updater, [1.0, -1.0, 1.0, -1.0]), 2)
    updater.skip(3, "a NaN", [3])
    with pytest.raises(
        UpdateError, match=r"step 4: 2 updates in a row were bad, the last by a NaN in groups \[1\]"
    ):
        updater.skip(4, "a NaN", [1])


def test_the_first_ratio_of_a_step_is_one_whatever_the_later_ones_are() -> None:
    updater = make(OptimizerSettings(lr=1e-2, mini_batches=2, epochs=2))
    metrics = updater.step(batch_for(updater, [1.0, -1.0, 1.0, -1.0]), 0).metrics
    assert metrics["first_ratio"] == pytest.approx(1.0, abs=1e-5)
    assert abs(metrics["ratio"] - 1.0) > 1e-4


def test_token_bonus_is_added_to_the_advantage() -> None:
    settings = OptimizerSettings(lr=1e-3, mini_batches=1)
    plain, bonus = make(settings), make(settings)
    batch = batch_for(plain, [1.0, 1.0, 1.0, 1.0])
    shifted = batch_for(bonus, [0.0, 0.0, 0.0, 0.0])
    shifted.token_bonus = [torch.ones(len(r)) for r in shifted.sequences.responses]
    plain.step(batch, 0)
    bonus.step(shifted, 0)
    for a, b in zip(plain.policy.parameters(), bonus.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_empty_responses_do_not_break_the_update() -> None:
    updater = make(OptimizerSettings(mini_batches=1))
    batch = batch_for(updater, [1.0, -1.0])
    batch.sequences.responses[1] = []
    batch.behaviour.logps[1] = torch.empty(0)
    assert updater.step(batch, 0).metrics["skipped"] == 0.0


@pytest.mark.parametrize("mini_batches", [1, 2, 3])
def test_the_first_mini_batch_serves_itself(mini_batches: int) -> None:
    """Scoring only `rows_to_score` ends at the same weights; what is missing is filled in."""
    settings = OptimizerSettings(lr=1e-2, mini_batches=mini_batches, epochs=2)
    full, lean = make(settings), make(settings)
    advantages = [1.0, -1.0, 0.5, -0.5, 2.0, -2.0]
    scored, holed = batch_for(full, advantages), batch_for(lean, advantages)
    expected = [logps.clone() for logps in scored.behaviour.logps]
    rows = lean.rows_to_score(holed.group_N, 5)
    assert len(rows) == {1: 0, 2: 2, 3: 4}[mini_batches]  # three groups of two
    holed.behaviour = score(
        lean.policy,
        holed.sequences,
        ScoreRequest(temperature=1.0, token_budget=1000, plan=ScorePlan([rows])),
    )
    assert [n for n, logps in enumerate(holed.behaviour.logps) if logps is not None] == rows
    result = lean.step(holed, 5)
    found, known = result.metrics, full.step(scored, 5).metrics
    assert [n for n, logps in enumerate(holed.behaviour.logps) if logps is not None] == rows
    assert found["loss"] == pytest.approx(known["loss"], abs=1e-5)
    assert "first_ratio" not in found  # nothing to compare with
    assert known["first_ratio"] == pytest.approx(1.0, abs=1e-5)
    for logps, old in zip(result.behaviour.logps, expected, strict=True):
        torch.testing.assert_close(logps, old, rtol=1e-5, atol=1e-5)
    if mini_batches == 1:  # else the later rows were scored in other micro-batches
        for a, b in zip(full.policy.parameters(), lean.policy.parameters(), strict=True):
            assert torch.equal(a, b)
    for a, b in zip(full.policy.parameters(), lean.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def count_forwards(updater: Updater) -> list[int]:
    """Grows by the rows of every forward of the policy."""
    seen: list[int] = []
    updater.policy.register_forward_hook(
        lambda module, given, output: seen.append(len(given[0].rows))
    )
    return seen


@pytest.mark.parametrize(("call_tokens", "kept"), [(256, 1), (1, 2)])
def test_a_kept_forward_is_the_one_the_update_would_have_made(
    call_tokens: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same weights to the bit, one forward less; features are those of a pass that keeps
    nothing."""
    monkeypatch.setattr(batching, "CALL_TOKENS", call_tokens)
    settings = OptimizerSettings(lr=1e-2, mini_batches=2, micro_batch_tokens=100)
    lean, keeping = make(settings), make(settings)
    holed, batch = (batch_for(u, [1.0, -1.0, 0.5, -0.5, 2.0, -2.0]) for u in (lean, keeping))
    late = lean.rows_to_score(holed.group_N, 5)
    first = [n for n in range(6) if n not in late]
    for each in (holed, batch):
        each.sequences.responses[first[0]] = []  # of which the update makes no forward
    keep = keeping.forwards_to_keep(batch.sequences, batch.group_N, 5)
    assert sorted(n for rows in keep for n in rows) == first[1:]
    assert len(keep) == kept  # micro-batches, where a call costs less than padding
    common = {"temperature": 1.0, "token_budget": 100}
    holed.behaviour = score(
        lean.policy, holed.sequences, ScoreRequest(**common, plan=ScorePlan([late]))
    )
    forwards = count_forwards(keeping)
    batch.behaviour = score(
        keeping.policy,
        batch.sequences,
        ScoreRequest(features=True, **common, plan=ScorePlan([late, first[:1]], keep)),
    )
    batch.kept_forwards = batch.behaviour.take_forwards()
    assert len(batch.kept_forwards) == kept
    whole = score(lean.policy, holed.sequences, ScoreRequest(features=True, **common))
    torch.testing.assert_close(batch.behaviour.features_ND, whole.features_ND, rtol=1e-4, atol=1e-6)
    scored = sum(forwards)
    known, found = lean.step(holed, 5).metrics, keeping.step(batch, 5).metrics
    assert scored == 6
    assert sum(forwards) - scored == len(late)
    assert not batch.behaviour.forwards  # nothing stays in memory
    assert not batch.kept_forwards
    assert found == known
    for a, b in zip(lean.policy.parameters(), keeping.policy.parameters(), strict=True):
        assert torch.equal(a, b)


def test_forwards_are_kept_only_where_the_update_would_hold_them_anyway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    updater = make(OptimizerSettings(mini_batches=1, micro_batch_tokens=8 + 6))
    batch = batch_for(updater, [1.0, -1.0])  # 6 and 7 tokens, padded to 14 or in two micro-batches
    assert updater.forwards_to_keep(batch.sequences, batch.group_N, 0) == [[0, 1]]
    updater.settings = OptimizerSettings(mini_batches=1, micro_batch_tokens=12)
    assert updater.forwards_to_keep(batch.sequences, batch.group_N, 0) == []
    updater.settings = OptimizerSettings(mini_batches=1)
    monkeypatch.setattr(batching, "CALL_TOKENS", 0)
    assert updater.forwards_to_keep(batch.sequences, batch.group_N, 0) == [[0], [1]]
    updater.policy.compute_dtype = torch.bfloat16  # each would hold copies of the weights
    assert updater.forwards_to_keep(batch.sequences, batch.group_N, 0) == []
    monkeypatch.setattr(batching, "CALL_TOKENS", 256)
    assert updater.forwards_to_keep(batch.sequences, batch.group_N, 0) == [[0, 1]]
    updater.policy.sharding = ShardSettings()
    assert updater.forwards_to_keep(batch.sequences, batch.group_N, 0) == []
    updater.policy.sharding = None
    make_noisy(updater)
    assert updater.forwards_to_keep(batch.sequences, batch.group_N, 0) == []


def make_noisy(updater: Updater) -> None:
    """Let the update compute with dropout, as `model.training_noise` does."""
    for module in updater.policy.model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    updater.policy.training_noise = True
    updater.policy._has_noise = None  # measured anew


def test_several_ranks_keep_nothing() -> None:
    updater = make(OptimizerSettings(mini_batches=1))
    updater.world = World(rank=0, size=2)
    batch = batch_for(make(OptimizerSettings()), [1.0, -1.0])
    assert updater.forwards_to_keep(batch.sequences, batch.group_N, 0) == []
    with pytest.raises(ValueError, match="plan no kept_micro_batches"):
        score(
            updater.policy,
            batch.sequences,
            ScoreRequest(temperature=1.0, token_budget=100, plan=ScorePlan([[0]], [[1]])),
            world=updater.world,
        )


@pytest.mark.parametrize(
    ("loss", "fused"),
    [
        (PolicyLoss(kl_coef=0.1), True),
        (
            PolicyLoss(
                surrogate="cispo", normalizer="sequence_mean", kl_coef=0.1, kl_estimator="k2"
            ),
            True,
        ),
        (PolicyLoss(sampler_correction="sequence"), False),
        (PolicyLoss(ratio="sequence", normalizer="sequence_mean"), False),
    ],
)
def test_a_fused_head_ends_at_the_same_weights(
    loss: PolicyLoss, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of three updates with every term of the loss, against the head that recomputes."""
    settings = OptimizerSettings(lr=1e-2, mini_batches=3, epochs=2, micro_batch_tokens=16)
    plain, fusing = make(settings, loss), make(settings, loss)
    metrics, calls = [], []
    real = head._fused
    monkeypatch.setattr(head, "_fused", lambda *args: calls.append(1) or real(*args))
    for updater, start in ((plain, 1 << 30), (fusing, 0)):
        monkeypatch.setattr(head, "FUSE_FROM", start)
        batch = batch_for(updater, [1.0, -1.0, 0.5, -0.5, 2.0, -2.0])
        shift = torch.linspace(-0.3, 0.3, 3)
        batch.ref_logps = [
            logps + shift[: len(logps)] for logps in require_scored(batch.behaviour.logps)
        ]
        batch.sampler_logps = [
            logps - shift[: len(logps)] for logps in require_scored(batch.behaviour.logps)
        ]
        batch.token_bonus = [
            0.1 * shift[: len(logps)] for logps in require_scored(batch.behaviour.logps)
        ]
        batch.entropy_coef = 0.05
        calls.clear()
        metrics.append(updater.step(batch, 0).metrics)
        assert bool(calls) == (fused and updater is fusing)
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-4, abs=1e-5)
    for a, b in zip(plain.policy.parameters(), fusing.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4)


def test_a_later_mini_batch_must_have_been_scored() -> None:
    updater = make(OptimizerSettings(mini_batches=2))
    batch = batch_for(updater, [1.0, -1.0, 1.0, -1.0])
    batch.behaviour = score(
        updater.policy,
        batch.sequences,
        ScoreRequest(temperature=1.0, token_budget=1000, plan=ScorePlan([[]])),
    )
    with pytest.raises(ValueError, match="not scored"):
        updater.step(batch, 0)


def test_dropout_needs_every_row_scored() -> None:
    updater = make(OptimizerSettings(mini_batches=2))
    assert not updater.policy.has_dropout
    make_noisy(updater)
    assert updater.policy.has_dropout
    assert updater.rows_to_score(torch.arange(4) // 2, 0) == [0, 1, 2, 3]


def test_the_plan_is_the_cheapest_there_is() -> None:
    """Against every way of cutting the sorted rows, by brute force."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        lengths = sorted(int(n) for n in rng.integers(1, 400, 7))
        budget = int(rng.integers(100, 3000))
        sequences = Sequences([[1]] * 7, [[2] * (n - 1) for n in lengths])
        plan = plan_micro_batches(sequences, rng.permutation(7).tolist(), budget)

        def cost(
            parts: list[list[int]], lengths: list[int] = lengths, budget: int = budget
        ) -> float:
            padded = [len(part) * max(lengths[n] for n in part) for part in parts]
            fits = all(p <= budget or len(part) == 1 for p, part in zip(padded, parts, strict=True))
            return sum(padded) + CALL_TOKENS * len(parts) if fits else math.inf

        cuts = [[c for c in range(1, 7) if mask >> (c - 1) & 1] for mask in range(64)]
        ways = [[list(range(a, b)) for a, b in itertools.pairwise([0, *cut, 7])] for cut in cuts]
        assert cost(plan) == min(map(cost, ways))


def test_micro_batches_fit_the_budget_and_hold_every_row_once() -> None:
    sequences = Sequences([[1] * 3] * 6, [[2] * n for n in (9, 1, 4, 0, 2, 30)])
    plan = plan_micro_batches(sequences, range(6), token_budget=20)
    assert sorted(n for rows in plan for n in rows) == list(range(6))
    for rows in plan:
        longest = max(sequences.total_length(n) for n in rows)
        assert len(rows) * longest <= 20 or len(rows) == 1


@pytest.mark.parametrize(
    "bad",
    [{"schedule": "cosin"}, {"lr": -1.0}, {"grad_clip": 0.0}, {"mini_batches": 0}, {"epochs": 0}],
)
def test_impossible_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="optimizer"):
        OptimizerSettings(**bad)  # type: ignore[arg-type]


def test_a_sampler_that_was_surer_than_the_policy_is_weighted_down() -> None:
    """Uniformly twice as sure halves every weight, and so the gradient that the optimizer sees."""
    settings = OptimizerSettings(
        lr=1e5, mini_batches=1, eps=1e6, grad_clip=1e9
    )  # update ~ gradient
    plain, corrected = make(settings), make(settings)
    before = [p.clone() for p in plain.policy.parameters()]
    one, two = (batch_for(updater, [1.0, -1.0, 0.5, -0.5]) for updater in (plain, corrected))
    two.sampler_logps = [logps + math.log(2.0) for logps in two.behaviour.logps]
    plain.step(one, 0)
    metrics = corrected.step(two, 0).metrics
    assert metrics["sampler_ratio"] == pytest.approx(0.5, abs=1e-5)
    assert metrics["sampler_capped"] == 0.0
    for start, a, b in zip(
        before, plain.policy.parameters(), corrected.policy.parameters(), strict=True
    ):
        torch.testing.assert_close(b - start, (a - start) / 2, rtol=1e-3, atol=1e-6)


def test_log_probabilities_of_some_responses_only_are_refused() -> None:
    problem = Problem("p", "1 2", "3")
    told, silent = Completion([5, 6], "stop", "x", [-0.1, -0.2]), Completion([5], "stop", "x")
    assert Rollouts([problem], [[1]], [[silent, silent]]).sampler_logps is None
    found = Rollouts([problem], [[1]], [[told, told]]).sampler_logps
    torch.testing.assert_close(torch.cat(found), torch.tensor([-0.1, -0.2, -0.1, -0.2]))
    short = Completion([5, 6], "stop", "x", [-0.1])
    for bad in ([told, silent], [told, short]):
        with pytest.raises(ValueError, match="every token of every response"):
            _ = Rollouts([problem], [[1]], [bad]).sampler_logps

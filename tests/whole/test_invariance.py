"""Nothing depends on micro-batch size, padding or order: neither scores nor an optimizer step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from g2rl.formulas.losses import NORMALIZERS, PolicyLoss
from g2rl.policy.batching import Sequences, make_micro_batch, plan_micro_batches
from g2rl.policy.loading import LoadedModel
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScoreRequest, Scores, score
from g2rl.training.micro_batch_update import BehaviourSource, UpdateBatch
from g2rl.training.optimizer import OptimizerSettings
from g2rl.training.updater import Updater

TAU, MAX_TOKENS, LR, EPS = 0.8, 16, 0.5, 1.0
PROMPTS = [
    [1, 3, 25, 29, 24, 4, 35, 5],
    [1, 3, 26, 28, 4, 40, 5],
    [1, 3, 25, 29, 24, 27, 23, 4, 31, 5],
]
RESPONSES = [
    [20, 24, 14, 25, 21, 2],
    [20, 29, 2],
    [10, 25, 14, 24, 13, 27, 12, 2],
    [9],
    [20, 26, 14, 28, 2],
    [],
    [6, 26, 15, 28, 8, 2],
    [20, 2],
    [2],
    [9, 35, 13, 29, 17, 23, 12, 20, 21, 2],
    [10, 20, 2],
    [20, 25, 15, 21, 2],
]
SEQUENCES = Sequences([PROMPTS[n // 4] for n in range(12)], RESPONSES)
ALL = list(range(12))


@pytest.fixture(scope="module")
def policy(tiny: LoadedModel) -> Policy:
    return Policy(tiny.model)


def scored(policy: Policy, sequences: Sequences, budget: int) -> Scores:
    return score(
        policy, sequences, ScoreRequest(temperature=TAU, token_budget=budget, features=True)
    )


def assert_same_scores(found: Scores, expected: Scores, order: list[int]) -> None:
    """Row n of `found` is row order[n] of `expected`, to float32 rounding."""
    for n, m in enumerate(order):
        torch.testing.assert_close(found.logps[n], expected.logps[m], rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(found.entropies[n], expected.entropies[m], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(found.features_ND, expected.features_ND[order], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def one_by_one(policy: Policy) -> Scores:
    return scored(policy, SEQUENCES, 1)


def test_scores_equal_the_full_logits_of_each_row(policy: Policy, one_by_one: Scores) -> None:
    """log p, H and Phi = sum_t (W[y_t] - p_t W) / T from the model's own logits, one row at a
    time."""
    weight = policy.model.get_output_embeddings().weight.double()
    for n, response in enumerate(RESPONSES):
        ids = torch.tensor([SEQUENCES.prompts[n] + response])
        first = len(SEQUENCES.prompts[n]) - 1
        with torch.no_grad():
            logits = policy.model(input_ids=ids).logits[0, first : first + len(response)].double()
        logp = (logits / TAU).log_softmax(-1)
        expected = logp[torch.arange(len(response)), torch.tensor(response, dtype=torch.int64)]
        torch.testing.assert_close(one_by_one.logps[n].double(), expected, rtol=1e-4, atol=2e-5)
        entropy = -(logp.exp() * logp).sum(-1)
        torch.testing.assert_close(one_by_one.entropies[n].double(), entropy, rtol=1e-4, atol=2e-5)
        mean = entropy.mean() if response else torch.zeros(()).double()
        torch.testing.assert_close(
            one_by_one.mean_entropy_N[n].double(), mean, rtol=1e-4, atol=2e-5
        )
        phi = weight[response] - logp.exp() @ weight
        feature = phi.sum(0) / max(len(response), 1)
        torch.testing.assert_close(
            one_by_one.features_ND[n].double(), feature, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("budget", [24, 50, 100_000])
def test_scores_do_not_depend_on_the_token_budget(
    policy: Policy, one_by_one: Scores, budget: int
) -> None:
    assert_same_scores(scored(policy, SEQUENCES, budget), one_by_one, ALL)


@pytest.mark.parametrize(
    "order",
    [
        ALL[8:] + ALL[:8],  # another prompt order
        [3, 0, 2, 1, 5, 7, 4, 6, 11, 10, 9, 8],  # another order within the groups
        [7, 2, 9, 0, 5, 11, 3, 1, 8, 10, 4, 6],  # no order at all
    ],
)
def test_scores_follow_the_order_of_the_rows(
    policy: Policy, one_by_one: Scores, order: list[int]
) -> None:
    moved = Sequences([SEQUENCES.prompts[m] for m in order], [RESPONSES[m] for m in order])
    assert_same_scores(scored(policy, moved, 60), one_by_one, order)


@pytest.mark.parametrize("pad_id", [0, 2, 40])
def test_padding_is_never_seen(policy: Policy, pad_id: int) -> None:
    rows = [0, 3, 5, 9]
    tight = policy(make_micro_batch(SEQUENCES, rows, policy.device), TAU, features=True)
    wide = policy(
        make_micro_batch(SEQUENCES, rows, policy.device, pad_id, pad_to=47), TAU, features=True
    )
    torch.testing.assert_close(wide.logps_T, tight.logps_T, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(wide.entropy_T, tight.entropy_T, rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(wide.features_ND, tight.features_ND, rtol=1e-4, atol=1e-5)


def test_scoring_leaves_the_mode_and_the_gradients_alone(policy: Policy) -> None:
    policy.train()
    found = scored(policy, SEQUENCES, 100)
    assert policy.training
    assert not found.logps[0].requires_grad
    policy.eval()


@pytest.mark.parametrize("budget", [1, 20, 45, 1000])
def test_plan_covers_every_row_once_within_the_budget(budget: int) -> None:
    plan = plan_micro_batches(SEQUENCES, ALL, budget)
    assert sorted(n for rows in plan for n in rows) == ALL
    for rows in plan:
        size = len(rows) * max(SEQUENCES.total_length(n) for n in rows)
        assert size <= budget or len(rows) == 1


def batch_of(order: list[int], scores: Scores) -> UpdateBatch:
    """The fabricated rollout batch, rows in the given order; off-policy, with a KL term and
    bonuses."""
    rng = torch.Generator().manual_seed(0)
    advantages = torch.randn(12, generator=rng)
    old, ref, bonus = (
        [x + scale * torch.randn(len(x), generator=rng) for x in scores.logps]
        for scale in (0.2, 0.5, 0.0)
    )
    bonus = [
        0.1 * (b - x) + 0.05 * torch.arange(len(x))
        for b, x in zip(bonus, scores.logps, strict=True)
    ]
    return UpdateBatch(
        sequences=Sequences([SEQUENCES.prompts[m] for m in order], [RESPONSES[m] for m in order]),
        group_N=torch.tensor([m // 4 for m in order]),
        advantages_N=advantages[order],
        behaviour=Scores([old[m] for m in order], [None] * len(order)),
        first_source=BehaviourSource.SCORES,
        ref_logps=[ref[m] for m in order],
        token_bonus=[bonus[m] for m in order],
        entropy_coef=0.05,
    )


def step(
    tiny: LoadedModel, batch: UpdateBatch, normalizer: str, budget: int
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Change of every parameter in one update. AdamW with a large eps: -lr g / (|g| + eps), smooth
    in g."""
    policy = Policy(copy.deepcopy(tiny.model))
    settings = OptimizerSettings(
        lr=LR, eps=EPS, grad_clip=1e9, mini_batches=1, micro_batch_tokens=budget, weight_decay=0.0
    )
    updater = Updater(
        policy,
        PolicyLoss(normalizer=normalizer, kl_coef=0.1),
        settings,
        temperature=TAU,
        max_tokens=MAX_TOKENS,
        total_updates=1,
        seed=0,
    )
    metrics = updater.step(batch, 0).metrics
    before = dict(tiny.model.named_parameters())
    return {k: v.detach() - before[k].detach() for k, v in policy.model.named_parameters()}, metrics


def assert_same_step(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    largest = max(float(change.abs().max()) for change in expected.values())
    assert largest > 1e-3
    for name, change in expected.items():
        torch.testing.assert_close(found[name], change, rtol=1e-3, atol=2e-5 * largest, msg=name)


def reference_step(tiny: LoadedModel, batch: UpdateBatch, normalizer: str) -> dict[str, Tensor]:
    """The same update from the model's own logits, row by row, with the loss written out."""
    model = copy.deepcopy(tiny.model)
    lengths = [len(r) for r in batch.sequences.responses]
    tokens = sum(lengths)
    loss = torch.zeros(())
    for n, (prompt, response) in enumerate(
        zip(batch.sequences.prompts, batch.sequences.responses, strict=True)
    ):
        if not response:
            continue
        logits = (
            model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / TAU
        )
        log_p = logits.log_softmax(-1)
        logps = log_p[torch.arange(lengths[n]), torch.tensor(response)]
        entropy = -(log_p.exp() * log_p).sum(-1)
        rho = (logps - batch.behaviour.logps[n]).exp()
        advantage = batch.advantages_N[n] + batch.token_bonus[n]
        gap = batch.ref_logps[n] - logps
        cost = -torch.min(rho * advantage, rho.clamp(0.8, 1.2) * advantage) + 0.1 * (
            gap.exp() - gap - 1
        )
        in_group = sum(
            x for x, g in zip(lengths, batch.group_N, strict=True) if g == batch.group_N[n]
        )
        share = {
            "token_mean": 1 / tokens,
            "sequence_mean": 1 / (12 * lengths[n]),
            "sequence_sum": 1 / 12,
            "constant": 1 / (12 * MAX_TOKENS),
            "group_mean": 1 / (3 * in_group),
        }[normalizer]
        loss = loss + share * cost.sum() - batch.entropy_coef * entropy.sum() / tokens
    loss.backward()
    return {k: -LR * p.grad / (p.grad.abs() + EPS) for k, p in model.named_parameters()}


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_one_update_is_the_same_for_every_micro_batch_size(
    tiny: LoadedModel, one_by_one: Scores, normalizer: str
) -> None:
    """Also equal to the update written out row by row on full logits."""
    batch = batch_of(ALL, one_by_one)
    expected = reference_step(tiny, batch, normalizer)
    changes, losses = [], []
    for budget in (1, 40, 100_000):
        change, metrics = step(tiny, batch, normalizer, budget)
        assert_same_step(change, expected)
        changes.append(change)
        losses.append(metrics["loss"])
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)


@pytest.mark.parametrize("normalizer", ["group_mean", "sequence_mean"])
@pytest.mark.parametrize("order", [ALL[4:] + ALL[:4], [3, 0, 2, 1, 5, 7, 4, 6, 11, 10, 9, 8]])
def test_one_update_does_not_depend_on_the_order_of_prompts_or_responses(
    tiny: LoadedModel, one_by_one: Scores, order: list[int], normalizer: str
) -> None:
    expected, _ = step(tiny, batch_of(ALL, one_by_one), normalizer, 60)
    found, _ = step(tiny, batch_of(order, one_by_one), normalizer, 60)
    assert_same_step(found, expected)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_responses_left_out_count_as_if_never_sampled(
    tiny: LoadedModel, one_by_one: Scores, normalizer: str
) -> None:
    """An advantage of 0 is another thing: such a response would still be in every mean."""
    kept = [0, 1, 3, 8, 9, 10, 11]  # one group loses a response, one all of them
    batch = batch_of(ALL, one_by_one)
    batch.keep_N = torch.tensor([n in kept for n in ALL])
    found, found_metrics = step(tiny, batch, normalizer, 60)

    # the same rows, and nothing else
    whole = batch_of(ALL, one_by_one)
    alone = UpdateBatch(
        sequences=Sequences([SEQUENCES.prompts[m] for m in kept], [RESPONSES[m] for m in kept]),
        group_N=whole.group_N[kept],
        advantages_N=whole.advantages_N[kept],
        behaviour=Scores([whole.behaviour.logps[m] for m in kept], [None] * len(kept)),
        first_source=BehaviourSource.SCORES,
        ref_logps=[whole.ref_logps[m] for m in kept],
        token_bonus=[whole.token_bonus[m] for m in kept],
        entropy_coef=0.05,
    )
    expected, expected_metrics = step(tiny, alone, normalizer, 60)
    assert_same_step(found, expected)
    assert found_metrics["loss"] == pytest.approx(expected_metrics["loss"], rel=1e-4)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_a_mini_batch_of_which_nothing_is_kept_leaves_the_weights(
    tiny: LoadedModel, one_by_one: Scores, normalizer: str
) -> None:
    batch = batch_of(ALL, one_by_one)
    batch.keep_N = torch.zeros(12, dtype=torch.bool)
    found, metrics = step(tiny, batch, normalizer, 60)
    assert all((change == 0).all() for change in found.values())
    assert metrics["skipped"] == 0.0

"""The loss against padded (B, T)-mask formulas of TRL's loss types, KL by enumeration, weights by
hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from g2rl.formulas.losses import (
    ANCHOR_KINDS,
    KL_ESTIMATORS,
    NORMALIZERS,
    RATIOS,
    SURROGATES,
    LossInputs,
    PolicyLoss,
    anchor_penalty,
    kl_divergence,
    response_weights,
)
from g2rl.types import SamplingParams

MAX_TOKENS = 9
LENGTHS = torch.tensor([4, 1, 6, 0, 3, 2])  # one empty response
GROUPS = torch.tensor([7, 7, 7, 2, 2, 2])


@dataclass
class Padded:
    """One mini-batch the way TRL holds it: (B, T) matrices and a mask."""

    logps: Tensor
    old: Tensor
    ref: Tensor
    entropy: Tensor
    mask: Tensor
    advantages: Tensor


def padded(seed: int = 0) -> Padded:
    rng = torch.Generator().manual_seed(seed)
    rows, longest = len(LENGTHS), int(LENGTHS.max())
    logps, noise, other, entropy = (
        torch.randn(rows, longest, generator=rng, dtype=torch.float64) for _ in range(4)
    )
    return Padded(
        logps=(logps - 2).requires_grad_(True),
        old=logps - 2 - 0.4 * noise,  # ratios well outside the clip range on both sides
        ref=logps - 2 + 0.5 * other,
        entropy=entropy.abs().requires_grad_(True),
        mask=(torch.arange(longest) < LENGTHS[:, None]).double(),
        advantages=torch.randn(rows, generator=rng, dtype=torch.float64),
    )


def flat(
    p: Padded, normalizer: str, rows: list[int] | None = None, with_ref: bool = True
) -> LossInputs:
    """The rows as g2rl sees them: response tokens only, weights of the whole mini-batch."""
    rows = list(range(len(LENGTHS))) if rows is None else rows
    weights = response_weights(normalizer, LENGTHS, GROUPS, MAX_TOKENS).double()
    keep = p.mask[rows].bool()
    segments = torch.arange(len(rows)).unsqueeze(1).expand(keep.shape)[keep]
    chosen = torch.tensor(rows)
    return LossInputs(
        logps_T=p.logps[rows][keep],
        old_logps_T=p.old[rows][keep],
        advantages_T=p.advantages[chosen][segments],
        weights_T=weights[chosen][segments],
        segments_T=segments,
        rows=len(rows),
        entropy_T=p.entropy[rows][keep],
        token_share_T=torch.full(
            (int(keep.sum()),), 1.0 / float(LENGTHS.sum()), dtype=torch.float64
        ),
        ref_logps_T=p.ref[rows][keep] if with_ref else None,
    )


def reference_cost(
    p: Padded, surrogate: str, ratio: str, low: float, high: float, beta: float
) -> Tensor:
    """l_t as a (B, T) matrix: PPO or CISPO surrogate plus beta times k3."""
    log_ratio = p.logps - p.old
    if ratio == "sequence":  # GSPO: exp of the mean log ratio of the response
        log_ratio = ((log_ratio * p.mask).sum(1) / p.mask.sum(1).clamp(min=1)).unsqueeze(1)
    rho = log_ratio.exp()
    advantage = p.advantages.unsqueeze(1)
    if surrogate == "clip":
        cost = -torch.min(rho * advantage, rho.clamp(1 - low, 1 + high) * advantage)
    else:
        cost = -rho.clamp(max=1 + high).detach() * advantage * p.logps
    gap = p.ref - p.logps
    return cost + beta * (gap.exp() - gap - 1)


def reference_loss(cost: Tensor, mask: Tensor, normalizer: str) -> Tensor:
    """How TRL's loss types average a (B, T) matrix; group_mean from its definition."""
    per_response = (cost * mask).sum(1)
    if normalizer == "token_mean":  # bnpo, dapo
        return per_response.sum() / mask.sum()
    if normalizer == "sequence_mean":  # grpo
        return (per_response / mask.sum(1).clamp(min=1)).mean()
    if normalizer == "sequence_sum":  # luspo
        return per_response.mean()
    if normalizer == "constant":  # dr_grpo
        return per_response.sum() / (len(mask) * MAX_TOKENS)
    groups = [label == GROUPS for label in (2, 7)]
    return sum(per_response[g].sum() / mask[g].sum() for g in groups) / 2


CASES = list(itertools.product(NORMALIZERS, ("clip", "cispo"), ("token", "sequence")))


@pytest.mark.parametrize(("normalizer", "surrogate", "ratio"), CASES)
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_value_and_gradient_equal_the_padded_reference(
    normalizer: str, surrogate: str, ratio: str, beta: float
) -> None:
    p = padded()
    loss = PolicyLoss(surrogate, ratio, 0.15, 0.25, normalizer, beta, "k3")
    found, _ = loss(flat(p, normalizer))
    expected = reference_loss(
        reference_cost(p, surrogate, ratio, 0.15, 0.25, beta), p.mask, normalizer
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    (mine,) = torch.autograd.grad(found, p.logps)
    (oracle,) = torch.autograd.grad(expected, p.logps)
    torch.testing.assert_close(mine, oracle, rtol=1e-6, atol=1e-7)
    assert (mine[p.mask == 0] == 0).all()
    assert mine.abs().max() > 1e-3


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_the_loss_of_a_mini_batch_is_the_sum_over_its_micro_batches(normalizer: str) -> None:
    p = padded(1)
    loss = PolicyLoss(normalizer=normalizer, kl_coef=0.1)
    whole, metrics = loss(flat(p, normalizer), entropy_coef=0.2)
    parts = [
        loss(flat(p, normalizer, rows), entropy_coef=0.2) for rows in ([5, 0], [3, 2], [1], [4])
    ]
    torch.testing.assert_close(sum(value for value, _ in parts), whole, rtol=1e-9, atol=1e-12)
    for name, value in metrics.items():
        torch.testing.assert_close(
            sum(part[name] for _, part in parts), value, rtol=1e-9, atol=1e-12
        )


def one_token(ratio: float, advantage: float) -> tuple[Tensor, LossInputs]:
    """A single token with the given ratio to the behaviour policy, and its log-prob leaf."""
    logp = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    old = logp.detach() - torch.tensor(ratio, dtype=torch.float64).log()
    return logp, LossInputs(
        logp, old, one * advantage, one, torch.zeros(1, dtype=torch.int64), 1, one, one
    )


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),
        (1.1, 2.0, -2.2, -2.2, 0),
        (1.5, 2.0, -2.6, 0.0, 1),  # cut at 1.3
        (1.5, -2.0, 3.0, 3.0, 0),  # a bad token that became likelier is never cut
        (0.5, 2.0, -1.0, -1.0, 0),
        (0.5, -2.0, 1.6, 0.0, 1),  # cut at 0.8
    ],
)
def test_clipped_surrogate_by_hand(
    ratio: float, advantage: float, value: float, slope: float, clipped: int
) -> None:
    """-min(rho A, clip(rho, 0.8, 1.3) A); d/dlogp = -rho A where not cut."""
    logp, inputs = one_token(ratio, advantage)
    loss, metrics = PolicyLoss(clip_low=0.2, clip_high=0.3, kl_coef=0.0)(inputs)
    loss.backward()
    assert loss.item() == pytest.approx(value)
    assert logp.grad.item() == pytest.approx(slope)
    assert metrics["clip_fraction"].item() == clipped
    assert metrics["ratio"].item() == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope", "clipped"),
    [(1.1, 2.0, -2.2, 0), (1.5, 2.0, -2.6, 1), (1.5, -2.0, 2.6, 1), (0.5, -2.0, 1.0, 0)],
)
def test_cispo_by_hand(ratio: float, advantage: float, slope: float, clipped: int) -> None:
    """-sg(min(rho, 1.3)) A log pi: the gradient is cut in size, never dropped; log pi = -1."""
    logp, inputs = one_token(ratio, advantage)
    loss, metrics = PolicyLoss("cispo", clip_low=0.2, clip_high=0.3, kl_coef=0.0)(inputs)
    loss.backward()
    assert loss.item() == pytest.approx(-slope)
    assert logp.grad.item() == pytest.approx(slope)
    assert metrics["clip_fraction"].item() == clipped


@pytest.mark.parametrize(
    ("estimator", "expected"), [("k1", -0.6931472), ("k2", 0.2402265), ("k3", 0.3068528)]
)
def test_kl_estimators_by_hand(estimator: str, expected: float) -> None:
    """pi = 1/4, pi_ref = 1/2, d = log 2: k1 = -log 2, k2 = (log 2)^2 / 2, k3 = 2 - log 2 - 1."""
    pi, ref = torch.tensor([0.25]).double().log(), torch.tensor([0.5]).double().log()
    assert kl_divergence(estimator, pi, ref).item() == pytest.approx(expected, abs=1e-6)


def test_kl_estimators_are_unbiased_on_a_small_categorical() -> None:
    """E_pi k1 = E_pi k3 = KL(pi || ref) by exact enumeration; k3 >= 0; E_pi grad k2 = grad KL."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=rng, dtype=torch.float64, requires_grad=True)
    log_pi = logits.log_softmax(0)
    log_ref = torch.randn(6, generator=rng, dtype=torch.float64).log_softmax(0)
    exact = (log_pi.exp() * (log_pi - log_ref)).sum()
    pi = log_pi.exp().detach()
    for estimator in ("k1", "k3"):
        mean = (pi * kl_divergence(estimator, log_pi, log_ref)).sum()
        torch.testing.assert_close(mean, exact, rtol=1e-12, atol=1e-12)
    assert (kl_divergence("k3", log_pi, log_ref) >= 0).all()
    (slope,) = torch.autograd.grad(exact, logits, retain_graph=True)
    (found,) = torch.autograd.grad((pi * kl_divergence("k2", log_pi, log_ref)).sum(), logits)
    torch.testing.assert_close(found, slope, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_metric_is_the_mean_over_tokens_and_enters_with_its_coefficient(estimator: str) -> None:
    p = padded(2)
    with_kl, metrics = PolicyLoss(kl_coef=0.5, kl_estimator=estimator)(flat(p, "token_mean"))
    without, bare = PolicyLoss(kl_coef=0.0)(flat(p, "token_mean", with_ref=False))
    gap = (p.ref - p.logps)[p.mask.bool()]
    mean = {"k1": -gap, "k2": gap.square() / 2, "k3": gap.exp() - 1 - gap}[estimator].mean()
    torch.testing.assert_close(metrics["kl"], mean.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(with_kl - without, 0.5 * mean, rtol=1e-5, atol=1e-7)
    assert "kl" not in bare


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        ("token_mean", [1 / 6, 1 / 6, 0, 1 / 6]),
        ("sequence_mean", [1 / 4, 1 / 12, 0, 1 / 8]),
        ("sequence_sum", [1 / 4, 1 / 4, 0, 1 / 4]),
        ("constant", [1 / 40, 1 / 40, 0, 1 / 40]),
        ("group_mean", [1 / 8, 1 / 8, 0, 1 / 4]),
    ],
)
def test_response_weights_by_hand(normalizer: str, expected: list[float]) -> None:
    """Lengths (1, 3 | 0, 2), T_max = 10: per token 1/6; 1/(4 T); 1/4; 1/40; 1/(2 * 4) and 1/(2 *
    2)."""
    found = response_weights(normalizer, torch.tensor([1, 3, 0, 2]), torch.tensor([5, 5, 3, 3]), 10)
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("normalizer", "total"),
    [
        ("token_mean", 1.0),
        ("sequence_mean", 5 / 6),  # one response of six is empty
        ("sequence_sum", 16 / 6),
        ("constant", 16 / (6 * MAX_TOKENS)),
        ("group_mean", 1.0),
    ],
)
def test_sum_of_weights_times_lengths(normalizer: str, total: float) -> None:
    """sum_n w_n T_n: a loss of one on every token has this value."""
    weights = response_weights(normalizer, LENGTHS, GROUPS, MAX_TOKENS)
    assert (weights * LENGTHS).sum().item() == pytest.approx(total)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_all_responses_empty_weigh_nothing(normalizer: str) -> None:
    weights = response_weights(
        normalizer, torch.zeros(3, dtype=torch.int64), torch.tensor([0, 0, 1]), 4
    )
    assert weights.tolist() == [0.0, 0.0, 0.0]


def test_every_prompt_weighs_the_same_under_group_mean() -> None:
    weights = response_weights("group_mean", LENGTHS, GROUPS, MAX_TOKENS) * LENGTHS
    assert weights[GROUPS == 7].sum().item() == pytest.approx(0.5)
    assert weights[GROUPS == 2].sum().item() == pytest.approx(0.5)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_entropy_bonus_is_a_token_mean_whatever_the_normalizer(normalizer: str) -> None:
    """loss -= coef * mean H: d loss / d H_t = -coef / (tokens of the mini-batch), 16 of them."""
    p = padded(3)
    loss = PolicyLoss(normalizer=normalizer)
    plain, _ = loss(flat(p, normalizer))
    bonus, metrics = loss(flat(p, normalizer), entropy_coef=0.4)
    mean = (p.entropy * p.mask).sum() / 16
    torch.testing.assert_close(bonus, plain - 0.4 * mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(metrics["entropy"], mean.detach(), rtol=1e-9, atol=1e-12)
    surrogate, _ = PolicyLoss(normalizer=normalizer, kl_coef=0.0)(flat(p, normalizer))
    torch.testing.assert_close(metrics["policy_loss"], surrogate.detach(), rtol=1e-9, atol=1e-12)
    assert abs(surrogate - plain) > 1e-6, "the KL term would not be seen if it were counted as well"
    (slope,) = torch.autograd.grad(bonus, p.entropy)
    torch.testing.assert_close(slope, -0.4 / 16 * p.mask, rtol=1e-9, atol=1e-12)


def test_on_policy_gradient_is_reinforce() -> None:
    """At ratio 1 both surrogates have the gradient -w A of REINFORCE."""
    for surrogate in ("clip", "cispo"):
        p = padded(4)
        p.old = p.logps.detach().clone()
        loss, _ = PolicyLoss(surrogate, kl_coef=0.0)(flat(p, "token_mean", with_ref=False))
        (slope,) = torch.autograd.grad(loss, p.logps)
        torch.testing.assert_close(
            slope, -p.advantages[:, None] * p.mask / 16, rtol=1e-6, atol=1e-8
        )


@pytest.mark.parametrize(
    "bad",
    [
        {"surrogate": "x"},
        {"ratio": "x"},
        {"normalizer": "x"},
        {"kl_estimator": "x"},
        {"clip_low": 1.1},
        {"clip_high": -0.1},
        {"kl_coef": -1.0},
        {"sampler_mode": "x"},
        {"sampler_floor": -0.1},
        {"sampler_floor": 2.0, "sampler_cap": 2.0},
    ],
)
def test_settings_are_checked(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="algorithm"):
        PolicyLoss(**bad)


def drifted(p: Padded, scale: float) -> Tensor:
    """Log-probabilities of a sampler that differs from the trainer."""
    rng = torch.Generator().manual_seed(9)
    return p.old + scale * torch.randn(p.old.shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("mode", ["token", "sequence"])
@pytest.mark.parametrize("surrogate", ["clip", "cispo"])
def test_truncated_importance_sampling_by_hand(mode: str, surrogate: str) -> None:
    """Row by row from the definition: the weight multiplies the surrogate and not the KL."""
    p = padded()
    sampler, cap, beta = drifted(p, 0.8), 1.3, 0.1
    inputs = flat(p, "sequence_mean")
    inputs.sampler_logps_T = sampler[p.mask.bool()]
    loss_of = PolicyLoss(
        surrogate=surrogate,
        normalizer="sequence_mean",
        kl_coef=beta,
        sampler_correction=mode,
        sampler_cap=cap,
    )
    loss, metrics = loss_of(inputs)
    expected, capped, tokens = torch.zeros((), dtype=torch.float64), 0, int(LENGTHS.sum())
    for n, length in enumerate(LENGTHS.tolist()):
        gaps = [float(p.old[n, t] - sampler[n, t]) for t in range(length)]
        for t in range(length):
            raw = math.exp(sum(gaps) if mode == "sequence" else gaps[t])
            capped += raw > cap
            ratio = (p.logps[n, t] - p.old[n, t]).exp()
            a = p.advantages[n]
            if surrogate == "clip":
                cost = -torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a)
            else:
                cost = -ratio.clamp(max=1.2).detach() * a * p.logps[n, t]
            d = p.ref[n, t] - p.logps[n, t]
            expected = expected + (min(raw, cap) * cost + beta * (d.exp() - d - 1)) / (
                len(LENGTHS) * length
            )
    torch.testing.assert_close(loss, expected)
    assert 0 < capped < tokens
    assert metrics["sampler_capped"].item() == pytest.approx(capped / tokens)
    found, wanted = (
        torch.autograd.grad(x, p.logps, retain_graph=True)[0] for x in (loss, expected)
    )
    torch.testing.assert_close(found, wanted)


def test_without_correction_the_sampler_is_measured_only() -> None:
    p = padded()
    plain, _ = PolicyLoss()(flat(p, "token_mean"))
    inputs = flat(p, "token_mean")
    inputs.sampler_logps_T = drifted(p, 0.8)[p.mask.bool()]
    off, metrics = PolicyLoss(sampler_correction="none")(inputs)
    torch.testing.assert_close(off, plain)
    assert metrics["sampler_kl"] > 0.05
    inputs.sampler_logps_T = inputs.old_logps_T.detach().clone()
    same, metrics = PolicyLoss()(inputs)  # a sampler that agrees changes nothing
    torch.testing.assert_close(same, plain)
    assert metrics["sampler_kl"].abs() < 1e-12
    assert metrics["sampler_ratio"].item() == pytest.approx(1.0)


def test_the_sampler_kl_is_that_of_the_two_distributions() -> None:
    """k3 averaged over q's own probabilities, by enumeration: KL(q || pi_old)."""
    q, p = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    terms = kl_divergence("k3", q.log(), p.log())
    torch.testing.assert_close((q * terms).sum(), (q * (q / p).log()).sum())


def test_a_truncated_sampler_is_not_weighed() -> None:
    whole, cut = SamplingParams(1.0), SamplingParams(1.0, top_p=0.9)
    PolicyLoss().refuse_truncated(whole, True)
    PolicyLoss().refuse_truncated(cut, False)  # the engine reports nothing, so nothing is weighed
    PolicyLoss(sampler_correction="none").refuse_truncated(cut, True)
    for params in (cut, SamplingParams(1.0, top_k=20)):
        with pytest.raises(ValueError, match="sampler_correction=token must not weigh"):
            PolicyLoss().refuse_truncated(params, True)


@pytest.mark.parametrize("mode", ["token", "sequence"])
def test_masked_importance_sampling_by_hand(mode: str) -> None:
    """A weight outside [c, C] leaves its tokens out; one inside is not changed."""
    p = padded()
    sampler, floor, cap = drifted(p, 0.8), 0.6, 1.6
    inputs = flat(p, "token_mean", with_ref=False)
    inputs.sampler_logps_T = sampler[p.mask.bool()]
    masking = PolicyLoss(
        kl_coef=0.0,
        sampler_correction=mode,
        sampler_mode="mask",
        sampler_floor=floor,
        sampler_cap=cap,
    )
    loss, metrics = masking(inputs)
    gaps = (p.old - sampler) * p.mask
    if mode == "sequence":
        gaps = gaps.sum(1, keepdim=True).expand_as(gaps)
    weight = gaps.exp()
    outside = ((weight < floor) | (weight > cap)) & p.mask.bool()
    weight[outside] = 0.0
    cost = reference_cost(p, "clip", "token", 0.2, 0.2, 0.0)
    expected = (weight * cost * p.mask).sum() / p.mask.sum()
    torch.testing.assert_close(loss, expected)
    assert 0 < outside.sum() < p.mask.sum()
    assert metrics["sampler_capped"].item() == pytest.approx(
        float(outside.sum()) / float(p.mask.sum())
    )


def test_truncation_with_a_floor_raises_small_weights() -> None:
    p = padded()
    inputs = flat(p, "token_mean", with_ref=False)
    inputs.sampler_logps_T = drifted(p, 0.8)[p.mask.bool()]
    loss, _ = PolicyLoss(kl_coef=0.0, sampler_floor=0.8, sampler_cap=1.1)(inputs)
    weight = (p.old - drifted(p, 0.8)).exp().clamp(0.8, 1.1)
    cost = reference_cost(p, "clip", "token", 0.2, 0.2, 0.0)
    torch.testing.assert_close(loss, (weight * cost * p.mask).sum() / p.mask.sum())


@pytest.mark.parametrize("ratio", RATIOS)
def test_the_kl_is_corrected_by_the_ratio_and_its_gradient_goes_through_both(ratio: str) -> None:
    """beta rho k3, where the plain estimate is beta k3: arXiv 2512.02556 and TRL."""
    p = padded()
    found, metrics = PolicyLoss(
        ratio=ratio, normalizer="token_mean", kl_coef=0.3, kl_bias_correction=True
    )(flat(p, "token_mean"))
    log_ratio = p.logps - p.old
    if ratio == "sequence":
        log_ratio = ((log_ratio * p.mask).sum(1) / p.mask.sum(1).clamp(min=1)).unsqueeze(1)
    rho = log_ratio.exp()
    gap = p.ref - p.logps
    kl = rho * (gap.exp() - gap - 1)
    cost = reference_cost(p, "clip", ratio, 0.2, 0.2, 0.0) + 0.3 * kl
    expected = reference_loss(cost, p.mask, "token_mean")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(metrics["kl"], ((kl * p.mask).sum() / p.mask.sum()).detach())
    (mine,) = torch.autograd.grad(found, p.logps)
    (oracle,) = torch.autograd.grad(expected, p.logps)
    torch.testing.assert_close(mine, oracle)


def test_the_corrected_kl_is_unbiased_when_another_policy_sampled() -> None:
    """E_old[rho k3] = KL(pi || ref) by enumeration, while E_old[k3] is something else."""
    rng = torch.Generator().manual_seed(1)
    pi, old, ref = (torch.randn(5, generator=rng).double().log_softmax(0) for _ in range(3))
    ones = torch.ones(5, dtype=torch.float64)
    inputs = LossInputs(
        pi, old, 0 * ones, old.exp(), torch.arange(5), 5, 0 * ones, old.exp(), ref_logps_T=ref
    )
    exact = float((pi.exp() * (pi - ref)).sum())
    corrected, plain = (
        PolicyLoss(kl_coef=1.0, kl_bias_correction=on)(inputs)[0].item() for on in (True, False)
    )
    assert corrected == pytest.approx(exact)
    assert abs(plain - exact) > 0.01


# ---- token plans


def planned(p: Padded, **fields: Tensor | str) -> LossInputs:
    """The inputs of a whole mini-batch with a token plan."""
    inputs = flat(p, "token_mean", with_ref=False)
    for name, value in fields.items():
        setattr(inputs, name, value)
    return inputs


def test_a_plan_of_ones_and_the_same_bounds_changes_nothing() -> None:
    p = padded()
    loss = PolicyLoss(kl_coef=0.0, clip_low=0.1, clip_high=0.3)
    ones = torch.ones(16, dtype=torch.float64)
    plain, _ = loss(planned(p))
    same, metrics = loss(
        planned(
            p,
            plan_weights_T=ones,
            clip_low_T=0.1 * ones,
            clip_high_T=0.3 * ones,
            anchor_weights_T=0 * ones,
        )
    )
    assert torch.equal(plain, same)
    assert metrics["anchor"] == 0


def test_plan_weights_and_clip_bounds_act_token_by_token() -> None:
    """Ratio 2 and A = 1: clipped at 1.2, at 1.5, not at all, and left out."""
    logps = torch.full((4,), math.log(2.0), dtype=torch.float64, requires_grad=True)
    ones = torch.ones(4, dtype=torch.float64)
    inputs = LossInputs(
        logps,
        0 * ones,
        ones,
        ones,
        torch.zeros(4, dtype=torch.int64),
        1,
        ones,
        ones / 4,
        plan_weights_T=torch.tensor([1.0, 1.0, 0.5, 0.0]).double(),
        clip_low_T=torch.tensor([0.2, 0.2, math.inf, 0.2]).double(),
        clip_high_T=torch.tensor([0.2, 0.5, math.inf, math.inf]).double(),
    )
    loss, metrics = PolicyLoss(kl_coef=0.0)(inputs)
    loss.backward()
    assert loss.item() == pytest.approx(-1.2 - 1.5 - 0.5 * 2)
    assert logps.grad.tolist() == pytest.approx([0, 0, -0.5 * 2, 0])
    assert metrics["clip_fraction"].item() == pytest.approx(2 / 4)


@pytest.mark.parametrize("kind", ANCHOR_KINDS)
def test_the_anchor_is_the_behaviour_policy_unless_the_plan_names_another(kind: str) -> None:
    p = padded()
    weights = torch.linspace(0, 1, 16, dtype=torch.float64)
    keep = p.mask.bool()
    loss = PolicyLoss(kl_coef=0.0)
    plain, _ = loss(planned(p))
    for anchor, given in ((p.old, {}), (p.ref, {"anchor_logps_T": p.ref[keep]})):
        found, metrics = loss(planned(p, anchor_weights_T=weights, anchor_kind=kind, **given))
        gap = (anchor - p.logps)[keep]
        u = gap.exp()
        value = {
            "abs": gap.abs(),
            "k3": u - gap - 1,
            "js": u * gap - (u + 1) * ((u + 1) / 2).log(),
        }[kind]
        torch.testing.assert_close(found - plain, (weights * value).mean(), rtol=1e-6, atol=1e-9)
        assert metrics["anchor"].item() == pytest.approx((weights * value).mean().item())
        mine, oracle = (
            torch.autograd.grad(x, p.logps, retain_graph=True)[0]
            for x in (found - plain, (weights * value).mean())
        )
        torch.testing.assert_close(mine, oracle, rtol=1e-6, atol=1e-9)


def test_the_js_penalty_is_twice_the_divergence_by_enumeration() -> None:
    rng = torch.Generator().manual_seed(2)
    pi, anchor = (torch.randn(6, generator=rng).double().log_softmax(0) for _ in range(2))
    middle = ((pi.exp() + anchor.exp()) / 2).log()
    twice = (pi.exp() * (pi - middle)).sum() + (anchor.exp() * (anchor - middle)).sum()
    found = (pi.exp() * anchor_penalty("js", pi, anchor)).sum()
    torch.testing.assert_close(found, twice)
    with pytest.raises(ValueError, match="unknown kind of penalty 'kl'"):
        anchor_penalty("kl", pi, anchor)


def test_the_absolute_penalty_does_nothing_on_its_anchor() -> None:
    """Trap (e) of KL-Cov: at the first update log rho = 0 up to rounding, where |.| has slope 0."""
    logps = torch.full((5,), -1.0, requires_grad=True)
    shift = torch.tensor([0.0, 1e-6, -1e-6, 0.01, -0.01])
    anchor_penalty("abs", logps, logps.detach() - shift).sum().backward()
    assert logps.grad.tolist() == [0.0, 0.0, 0.0, 1.0, -1.0]


# ---- numbers far apart

FAR = [-1e6, -300.0, -89.0, -30.0, 0.0, 30.0, 89.0, 300.0, 1e6]


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
@pytest.mark.parametrize("advantage", [-1.5, 0.0, 2.0])
def test_far_apart_log_probabilities_stay_finite(
    surrogate: str, ratio: str, estimator: str, advantage: float
) -> None:
    """exp(89) overflows float32: the loss, its metrics and its gradient must not."""
    count = len(FAR)
    logps = torch.zeros(count, requires_grad=True)
    far, one = torch.tensor(FAR), torch.ones(count)
    for old, ref, sampler in ((far, 0 * far, far), (0 * far, far, -far), (far, -far, 0 * far)):
        inputs = LossInputs(
            logps,
            old,
            advantage * one,
            one / count,
            torch.arange(count),
            count,
            one,
            one / count,
            ref_logps_T=ref,
            sampler_logps_T=sampler,
            anchor_weights_T=one,
            anchor_logps_T=ref,
            anchor_kind="js",
        )
        loss_of = PolicyLoss(surrogate, ratio, kl_estimator=estimator, kl_bias_correction=True)
        loss, metrics = loss_of(inputs)
        (slope,) = torch.autograd.grad(loss, logps)
        assert torch.isfinite(loss)
        assert torch.isfinite(slope).all()
        assert all(torch.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("gap", FAR)
def test_a_token_without_advantage_costs_nothing_whatever_its_ratio(gap: float) -> None:
    logps = torch.tensor([gap], requires_grad=True)
    one = torch.ones(1)
    inputs = LossInputs(
        logps, 0 * one, 0 * one, one, torch.zeros(1, dtype=torch.int64), 1, one, one
    )
    for surrogate in SURROGATES:
        loss, _ = PolicyLoss(surrogate, kl_coef=0.0)(inputs)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, logps)[0].item() == 0


def test_a_far_reference_pulls_back_with_a_bounded_slope() -> None:
    """Slope of k3 is 1 - exp(d): exact to d = 10, and 1 - e^10 from there on, never 0."""
    logps = torch.tensor([-5.0, -10.0, -11.0, -32.0, -100.0], dtype=torch.float64)
    logps.requires_grad_(True)
    kl_divergence("k3", logps, torch.zeros_like(logps)).sum().backward()
    expected = [1 - math.exp(5), 1 - math.exp(10)] + [1 - math.exp(10)] * 3
    assert logps.grad.tolist() == pytest.approx(expected)

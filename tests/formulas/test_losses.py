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
    NORMALIZERS,
    LossInputs,
    PolicyLoss,
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

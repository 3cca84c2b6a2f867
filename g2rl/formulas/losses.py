"""The policy-gradient loss: one clipped surrogate whose settings are the published algorithms.

With ratio rho_t = pi(y_t) / pi_old(y_t), advantage A and clip (e_low, e_high), each token costs

    clip    l_t = -min(rho_t A, clip(rho_t, 1 - e_low, 1 + e_high) A)       PPO, GRPO, DAPO
    cispo   l_t = -stop_gradient(min(rho_t, cap)) A log pi(y_t)             arXiv 2506.13585

plus beta * KL_t to a frozen reference. The sequence-level ratio of GSPO (arXiv 2507.18071) replaces
rho_t by exp(mean_t log rho_t). The loss is sum_t w_t l_t, where w_t is constant within a response
and given by the normaliser over the *whole* mini-batch, so it does not change with micro-batches or
world size:

    token_mean      1 / sum_n T_n              DAPO (arXiv 2503.14476), BNPO
    sequence_mean   1 / (N T_n)                GRPO as published (arXiv 2402.03300)
    sequence_sum    1 / N                      LUSPO
    constant        1 / (N T_max)              Dr. GRPO (arXiv 2503.20783)
    group_mean      1 / (P sum_{m in group} T_m)   every prompt weighs the same

When another engine sampled, its probabilities q differ from the trainer's in rounding and kernels.
Truncated importance sampling multiplies the surrogate (not the KL) by the detached
min(pi_old(y_t) / q(y_t), C), token by token, or by min(prod_t pi_old / q, C) of the whole response
(Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"; Ionides
2008).

KL estimators (Schulman 2020), with d_t = log pi_ref(y_t) - log pi(y_t):

    k1 = -d_t       k2 = d_t^2 / 2       k3 = exp(d_t) - d_t - 1
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from g2rl.formulas.tensors import segment_mean, segment_sum
from g2rl.types import SamplingParams

SURROGATES = ("clip", "cispo")
RATIOS = ("token", "sequence")
NORMALIZERS = ("token_mean", "sequence_mean", "sequence_sum", "constant", "group_mean")
KL_ESTIMATORS = ("k1", "k2", "k3")
CORRECTIONS = ("token", "sequence", "none")


@dataclass(slots=True)
class LossInputs:
    """T response tokens of one micro-batch of B responses."""

    logps_T: Tensor
    """log pi(y_t) of the policy being updated; carries the gradient."""
    old_logps_T: Tensor
    """log pi_old(y_t) of the behaviour policy."""
    advantages_T: Tensor
    weights_T: Tensor
    """w_t of the normaliser."""
    segments_T: Tensor
    """Row of each token in 0..B-1."""
    rows: int
    """B."""
    entropy_T: Tensor
    """Token entropies; carries the gradient of the bonus."""
    token_share_T: Tensor
    """1 / (tokens of the mini-batch): the bonus is a mean over tokens whatever the normaliser."""
    ref_logps_T: Tensor | None = None
    sampler_logps_T: Tensor | None = None
    """log q(y_t) of the engine that sampled; None when it shares the policy's weights."""

    def bad_rows(self) -> list[int]:
        """Rows that hold a number which is not finite; all where only their sum is not."""
        tokens = (
            self.logps_T,
            self.old_logps_T,
            self.advantages_T,
            self.ref_logps_T,
            self.sampler_logps_T,
        )

        # tokens that hold a number which is not finite
        bad_T = torch.zeros_like(self.segments_T, dtype=torch.bool)
        for value_T in tokens:
            if value_T is not None:
                bad_T |= ~torch.isfinite(value_T.detach())
        return torch.unique(self.segments_T[bad_T]).tolist() or list(range(self.rows))


@dataclass(slots=True, frozen=True)
class PolicyLoss:
    """Settings of the loss; conf/algorithm holds the published ones.

    Args:
        surrogate: "clip" or "cispo".
        ratio: "token" or "sequence" importance ratio.
        clip_low, clip_high: ratio bounds 1 - clip_low and 1 + clip_high; under "cispo" the cap is
            1 + clip_high and clip_low is not used.
        normalizer: how tokens are averaged.
        kl_coef: beta; 0 needs no reference policy.
        kl_estimator: k1, k2 or k3.
        sampler_correction: truncated importance sampling by "token" or "sequence", or "none";
            without effect when the engine reports no log-probabilities.
        sampler_cap: C, the largest weight.
    """

    surrogate: str = "clip"
    ratio: str = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    normalizer: str = "token_mean"
    kl_coef: float = 0.001
    kl_estimator: str = "k3"
    sampler_correction: str = "token"
    sampler_cap: float = 2.0

    def __post_init__(self) -> None:
        choices = (
            ("surrogate", SURROGATES),
            ("ratio", RATIOS),
            ("normalizer", NORMALIZERS),
            ("kl_estimator", KL_ESTIMATORS),
            ("sampler_correction", CORRECTIONS),
        )

        # names
        for name, allowed in choices:
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"algorithm.{name} must be one of {allowed}, got {getattr(self, name)!r}"
                )

        # ranges
        if not 0 <= self.clip_low <= 1 or self.clip_high < 0:
            raise ValueError("algorithm.clip_low must lie in [0, 1] and clip_high be >= 0")
        if self.kl_coef < 0 or self.sampler_cap <= 0:
            raise ValueError(
                f"algorithm: need kl_coef >= 0 and sampler_cap > 0, got {self.kl_coef} and {self.sampler_cap}"
            )

    def by_token(self, sampler_logps: object) -> bool:
        """Whether the loss is a sum of functions of one token each, so that some tokens have a
        loss."""
        return self.ratio == "token" and (
            sampler_logps is None or self.sampler_correction != "sequence"
        )

    def __call__(
        self, inputs: LossInputs, entropy_coef: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a micro-batch (its share of the mini-batch's) and detached sums for metrics.

        Metrics are weighted by `token_share_T`, so that summing them over micro-batches gives
        means over the tokens of the mini-batch.
        """
        # importance ratio of each token, or of its whole response
        log_ratio_T = inputs.logps_T - inputs.old_logps_T
        if self.ratio == "sequence":
            log_ratio_T = segment_mean(log_ratio_T, inputs.segments_T, inputs.rows)[
                inputs.segments_T
            ]
        ratio_T = log_ratio_T.exp()

        # the clipped surrogate
        cost_T = surrogate_cost(
            self.surrogate,
            ratio_T,
            inputs.advantages_T,
            inputs.logps_T,
            self.clip_low,
            self.clip_high,
        )

        # means over the tokens of the mini-batch
        share_T = inputs.token_share_T
        metrics = {
            "clip_fraction": (share_T * self._clipped(ratio_T, inputs.advantages_T)).sum(),
            "ratio": (share_T * ratio_T).sum(),
            "entropy": (share_T * inputs.entropy_T).sum(),
        }

        # when another engine sampled: weigh by pi_old / q
        if inputs.sampler_logps_T is not None:
            correction_T, found = self._corrected(inputs, inputs.sampler_logps_T)
            cost_T = cost_T * correction_T
            metrics |= {
                f"sampler_{name}": (share_T * value_T).sum() for name, value_T in found.items()
            }
        metrics["policy_loss"] = (inputs.weights_T * cost_T).sum()

        # stay near the reference
        if inputs.ref_logps_T is not None:
            kl_T = kl_divergence(self.kl_estimator, inputs.logps_T, inputs.ref_logps_T)
            metrics["kl"] = (share_T * kl_T).sum()
            cost_T = cost_T + self.kl_coef * kl_T

        # the normaliser weighs every token
        loss = (inputs.weights_T * cost_T).sum()
        if entropy_coef:
            loss = loss - entropy_coef * (share_T * inputs.entropy_T).sum()
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _corrected(
        self, inputs: LossInputs, sampler_logps_T: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weight of each token (1 without correction), and what tells how far sampler and trainer
        are apart.

        ratio is pi_old / q, capped the share of tokens whose weight is C, and kl the k3 estimate of
        KL(q || pi_old), unbiased because the samples are q's.
        """
        # log pi_old / q, and how far the two are apart
        gap_T = (inputs.old_logps_T - sampler_logps_T).detach()
        found = {
            "ratio": gap_T.exp(),
            "kl": kl_divergence("k3", sampler_logps_T, inputs.old_logps_T),
        }
        if self.sampler_correction == "none":
            return torch.ones_like(gap_T), found

        # one weight for a whole response
        if self.sampler_correction == "sequence":
            gap_T = segment_sum(gap_T, inputs.segments_T, inputs.rows)[inputs.segments_T]
        weight_T = gap_T.exp()
        found["capped"] = (weight_T > self.sampler_cap).to(gap_T.dtype)
        return weight_T.clamp(max=self.sampler_cap), found

    def refuse_truncated(self, params: SamplingParams, reports_logps: bool) -> None:
        """Refuse importance weights whose sampling distribution is truncated.

        The weights compare whole distributions; a sampler cut by top-p or top-k draws from another
        one.

        Args:
            params: how responses are sampled.
            reports_logps: whether the engine reports the log-probabilities that it sampled with.

        Raises:
            ValueError: the engine reports log-probabilities of a distribution cut by top-p or
            top-k.
        """
        truncated = params.top_p < 1 or params.top_k > 0
        if truncated and reports_logps and self.sampler_correction != "none":
            raise ValueError(
                f"top_p={params.top_p:g}, top_k={params.top_k}: the engine's log-probabilities are those of "
                "the truncated distribution, with which algorithm.sampler_correction="
                f"{self.sampler_correction} must not weigh; sample untruncated, or set it to none"
            )

    def _clipped(self, ratio_T: Tensor, advantages_T: Tensor) -> Tensor:
        """Tokens whose surrogate is cut: too high with A > 0, too low with A < 0 (cispo: above the
        cap)."""
        # above the upper bound, and below the lower one
        high_T = ratio_T > 1 + self.clip_high
        if self.surrogate == "cispo":
            return high_T.float()
        low_T = ratio_T < 1 - self.clip_low
        return ((high_T & (advantages_T > 0)) | (low_T & (advantages_T < 0))).float()


def surrogate_cost(
    surrogate: str,
    ratio_T: Tensor,
    advantages_T: Tensor,
    logps_T: Tensor,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """Cost l_t of each token, (T,)."""
    if surrogate == "cispo":
        return -ratio_T.clamp(max=1 + clip_high).detach() * advantages_T * logps_T
    clipped_T = ratio_T.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)


def kl_divergence(estimator: str, logps_T: Tensor, ref_logps_T: Tensor) -> Tensor:
    """Per-token estimate of KL(pi || pi_ref) from samples of pi, (T,)."""
    difference_T = ref_logps_T - logps_T
    if estimator == "k1":
        return -difference_T
    if estimator == "k2":
        return 0.5 * difference_T.square()
    return difference_T.exp() - difference_T - 1


def response_weights(
    normalizer: str, lengths_N: Tensor, group_N: Tensor, max_tokens: int
) -> Tensor:
    """Weight w_n of every token of response n, (N,) float32; empty responses weigh 0.

    Args:
        lengths_N: response lengths in tokens over the whole mini-batch.
        group_N: which prompt each response answers (any integer labels).
        max_tokens: T_max of the constant normaliser.
    """
    # weight of every token of a response, before empty ones are left out
    lengths = lengths_N.to(torch.float32)
    count = float(lengths.numel())
    if normalizer == "token_mean":
        weights = torch.full_like(lengths, 1.0) / lengths.sum().clamp_min(1.0)
    elif normalizer == "sequence_mean":
        weights = 1.0 / (count * lengths.clamp_min(1.0))
    elif normalizer == "sequence_sum":
        weights = torch.full_like(lengths, 1.0 / count)
    elif normalizer == "constant":
        weights = torch.full_like(lengths, 1.0 / (count * max_tokens))
    elif normalizer == "group_mean":
        labels, index_N = torch.unique(group_N, return_inverse=True)
        tokens = lengths.new_zeros(labels.numel()).index_add(0, index_N, lengths)
        weights = 1.0 / (labels.numel() * tokens.clamp_min(1.0)[index_N])
    else:
        raise ValueError(f"unknown normalizer {normalizer!r}, choose one of {NORMALIZERS}")
    return torch.where(lengths > 0, weights, torch.zeros_like(weights))

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
Importance sampling multiplies the surrogate (not the KL) by a detached weight: pi_old(y_t) / q(y_t)
token by token, or prod_t pi_old / q of the whole response. A weight outside [c, C] is moved to the
nearer bound ("truncate": Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You
Off-Policy RL Training"; Ionides 2008) or becomes 0 ("mask", the masked importance sampling of TRL).

KL estimators (Schulman 2020), with d_t = log pi_ref(y_t) - log pi(y_t):

    k1 = -d_t       k2 = d_t^2 / 2       k3 = exp(d_t) - d_t - 1

With the bias correction of DeepSeek-V3.2 (arXiv 2512.02556; use_bias_correction_kl in TRL) the
estimate is multiplied by rho_t, through which the gradient flows too. That makes it an estimate
under pi, although pi_old sampled.

A token plan (`g2rl.exploration.token_plan`) may change the cost of single tokens: a factor m_t of
the surrogate, clip bounds of their own, and a penalty a_t D(log pi(y_t), anchor_t). The cost of a
token is then m_t l_t + beta KL_t + a_t D_t.

Every exponential here is that of `bounded_exp`: exact up to e^10, and a straight line of slope e^10
from there on. So neither a value nor a gradient overflows, a far-off token is still pulled back,
and a token whose advantage is 0 costs 0 whatever its ratio.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from g2rl.formulas.tensors import bounded_exp, segment_mean, segment_sum
from g2rl.types import SamplingParams

SURROGATES = ("clip", "cispo")
RATIOS = ("token", "sequence")
NORMALIZERS = ("token_mean", "sequence_mean", "sequence_sum", "constant", "group_mean")
KL_ESTIMATORS = ("k1", "k2", "k3")
CORRECTIONS = ("token", "sequence", "none")
CORRECTION_MODES = ("truncate", "mask")
ANCHOR_KINDS = ("k3", "abs", "js")
ANCHOR_RESOLUTION = 1e-4
"""Differences of log-probability up to this have no slope under the penalty |d|. Two forwards of
the same weights differ by about 1e-6, and |d| would make a slope of 1 or -1 of that."""
LOG_2 = math.log(2.0)


@dataclass(slots=True)
class LossInputs:
    """The T response tokens of one micro-batch of B responses."""

    logps_T: Tensor
    """log pi(y_t) of the policy being updated; carries the gradient."""
    old_logps_T: Tensor
    """log pi_old(y_t) of the behaviour policy."""
    advantages_T: Tensor
    """A of each token; that of its response, unless a signal gives tokens a bonus."""
    weights_T: Tensor
    """w_t of the normaliser, see `response_weights`."""
    segments_T: Tensor
    """Number of the response that each token belongs to, 0 to B - 1."""
    rows: int
    """B, the number of responses."""
    entropy_T: Tensor
    """Token entropies in nats; carries the gradient of the entropy bonus."""
    token_share_T: Tensor
    """1 / (tokens of the mini-batch), so that the entropy bonus and all metrics are means over
    tokens, whatever the normaliser."""
    ref_logps_T: Tensor | None = None
    """log pi_ref(y_t) of the frozen reference; None without a KL term."""
    sampler_logps_T: Tensor | None = None
    """log q(y_t) of the engine that sampled; None when it shares the policy's weights."""
    plan_weights_T: Tensor | None = None
    """m_t of a token plan, a factor of the surrogate; None is 1."""
    clip_low_T: Tensor | None = None
    """clip_low of each token by a token plan, which may be inf; None takes that of the loss."""
    clip_high_T: Tensor | None = None
    """clip_high of each token, likewise."""
    anchor_weights_T: Tensor | None = None
    """a_t of a token plan's penalty; None is no penalty."""
    anchor_logps_T: Tensor | None = None
    """Log-probabilities that the penalty draws towards; None takes those of the behaviour
    policy."""
    anchor_kind: str = "k3"
    """Kind of the penalty, see `anchor_penalty`."""

    def bad_rows(self) -> list[int]:
        """Responses with a number that is not finite; all of them if only a sum is not finite."""
        inputs = (
            self.logps_T,
            self.old_logps_T,
            self.advantages_T,
            self.ref_logps_T,
            self.sampler_logps_T,
            self.plan_weights_T,
            self.anchor_weights_T,
            self.anchor_logps_T,
        )

        # a token is bad if any of its numbers is
        bad_T = torch.zeros_like(self.segments_T, dtype=torch.bool)
        for values_T in inputs:
            if values_T is not None:
                bad_T |= ~torch.isfinite(values_T.detach())

        # finite numbers may still overflow together, then no response can be told from the others
        bad_rows: list[int] = torch.unique(self.segments_T[bad_T]).tolist()
        return bad_rows or list(range(self.rows))


@dataclass(slots=True, frozen=True)
class PolicyLoss:
    """The loss with its settings; conf/algorithm holds the published ones.

    Args:
        surrogate: "clip" or "cispo", see the module.
        ratio: "token" or "sequence" importance ratio.
        clip_low, clip_high: ratio bounds 1 - clip_low and 1 + clip_high; under "cispo" the cap is
            1 + clip_high and clip_low is not used.
        normalizer: how tokens are averaged, see the module.
        kl_coef: beta; 0 needs no reference policy.
        kl_estimator: "k1", "k2" or "k3", see the module.
        kl_bias_correction: multiply the KL estimate by the importance ratio, see the module.
        sampler_correction: importance sampling by "token" or "sequence", or "none"; without effect
            when the engine reports no log-probabilities.
        sampler_mode: "truncate" moves a weight outside the bounds to the nearer one, "mask" makes
            it 0.
        sampler_floor, sampler_cap: the bounds c and C of the weight.
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
    kl_bias_correction: bool = False
    sampler_mode: str = "truncate"
    sampler_floor: float = 0.0

    def __post_init__(self) -> None:
        # each choice by name
        choices = (
            ("surrogate", SURROGATES),
            ("ratio", RATIOS),
            ("normalizer", NORMALIZERS),
            ("kl_estimator", KL_ESTIMATORS),
            ("sampler_correction", CORRECTIONS),
            ("sampler_mode", CORRECTION_MODES),
        )
        for name, allowed in choices:
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"algorithm.{name} must be one of {allowed}, got {value!r}")

        # clip_low above 1 would ask for a negative ratio
        if not 0 <= self.clip_low <= 1:
            raise ValueError(f"algorithm.clip_low must lie in [0, 1], got {self.clip_low}")
        for name in ("clip_high", "kl_coef"):
            if getattr(self, name) < 0:
                raise ValueError(f"algorithm.{name} must be >= 0, got {getattr(self, name)}")
        if not 0 <= self.sampler_floor < self.sampler_cap:
            raise ValueError(
                "algorithm: need 0 <= sampler_floor < sampler_cap, "
                f"got {self.sampler_floor} and {self.sampler_cap}"
            )

    def by_token(self, sampler_logps: object) -> bool:
        """Whether each token's loss depends on no other token.

        Args:
            sampler_logps: those of the engine; None when it reports none.
        """
        # a ratio or a correction of the whole response ties its tokens together
        corrects_sequences = sampler_logps is not None and self.sampler_correction == "sequence"
        return self.ratio == "token" and not corrects_sequences

    def __call__(
        self, inputs: LossInputs, entropy_coef: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The share of a micro-batch in the loss of its mini-batch, and metrics.

        Args:
            inputs: the tokens of the micro-batch.
            entropy_coef: weight of the entropy bonus, loss -= entropy_coef * mean token entropy.

        Returns:
            The loss (scalar, with gradient) and detached scalars. All of them are to be summed over
            the micro-batches: the sums of clip_fraction, ratio, entropy, kl and sampler_* are means
            over the tokens of the mini-batch, that of policy_loss is the loss without KL and bonus.
        """
        # cost of each token under the surrogate
        ratio_T = self._ratio(inputs)
        clip_low, clip_high = self._bounds(inputs)
        cost_T = surrogate_cost(
            self.surrogate, ratio_T, inputs.advantages_T, inputs.logps_T, clip_low, clip_high
        )

        # metrics are shares of a mean over the tokens of the mini-batch
        share_T = inputs.token_share_T
        clipped_T = self._clipped(ratio_T, inputs.advantages_T, clip_low, clip_high)
        metrics = {
            "clip_fraction": (share_T * clipped_T).sum(),
            "ratio": (share_T * ratio_T).sum(),
            "entropy": (share_T * inputs.entropy_T).sum(),
        }

        # another engine sampled from q instead of pi_old; and a token plan weighs tokens
        if inputs.sampler_logps_T is not None:
            correction_T, gaps = self._correction(inputs, inputs.sampler_logps_T)
            cost_T = cost_T * correction_T
            for name, gap_T in gaps.items():
                metrics[f"sampler_{name}"] = (share_T * gap_T).sum()
        if inputs.plan_weights_T is not None:
            cost_T = cost_T * inputs.plan_weights_T
        metrics["policy_loss"] = (inputs.weights_T * cost_T).sum()

        # penalties keep the policy near the reference and the anchors
        for name, penalty_T, coef in self._penalties(inputs, ratio_T):
            metrics[name] = (share_T * penalty_T).sum()
            cost_T = cost_T + coef * penalty_T

        # the normaliser weighs the tokens, the bonus is a plain mean over them
        loss = (inputs.weights_T * cost_T).sum()
        if entropy_coef:
            loss = loss - entropy_coef * (share_T * inputs.entropy_T).sum()
        return loss, {name: value.detach() for name, value in metrics.items()}

    def _ratio(self, inputs: LossInputs) -> Tensor:
        """Importance ratio of each token, or of its whole response."""
        log_ratio_T = inputs.logps_T - inputs.old_logps_T
        if self.ratio == "sequence":
            mean_log_ratio_B = segment_mean(log_ratio_T, inputs.segments_T, inputs.rows)
            log_ratio_T = mean_log_ratio_B[inputs.segments_T]
        return bounded_exp(log_ratio_T)

    def _bounds(self, inputs: LossInputs) -> tuple[Tensor | float, Tensor | float]:
        """clip_low and clip_high: those of the loss, or one for each token by its plan."""
        # a plan that sets one bound leaves the other as it is
        clip_low: Tensor | float = self.clip_low
        clip_high: Tensor | float = self.clip_high
        if inputs.clip_low_T is not None:
            clip_low = inputs.clip_low_T
        if inputs.clip_high_T is not None:
            clip_high = inputs.clip_high_T
        return clip_low, clip_high

    def _penalties(self, inputs: LossInputs, ratio_T: Tensor) -> list[tuple[str, Tensor, float]]:
        """What is added to the surrogate: the name, value of each token and coefficient of each."""
        penalties: list[tuple[str, Tensor, float]] = []
        if inputs.ref_logps_T is not None:
            kl_T = kl_divergence(self.kl_estimator, inputs.logps_T, inputs.ref_logps_T)
            # the samples are those of pi_old, and the ratio makes them count as those of pi
            if self.kl_bias_correction:
                kl_T = kl_T * ratio_T
            penalties.append(("kl", kl_T, self.kl_coef))

        # a plan's penalty has a coefficient for each token
        if inputs.anchor_weights_T is not None:
            anchor_T = inputs.old_logps_T
            if inputs.anchor_logps_T is not None:
                anchor_T = inputs.anchor_logps_T
            anchored_T = anchor_penalty(inputs.anchor_kind, inputs.logps_T, anchor_T)
            penalties.append(("anchor", inputs.anchor_weights_T * anchored_T, 1.0))
        return penalties

    def _correction(
        self, inputs: LossInputs, sampler_logps_T: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Importance weights pi_old / q within [c, C], and how far sampler and trainer differ.

        Returns:
            The weight of each token (1 without correction); and by token pi_old / q as "ratio", the
            k3 estimate of KL(q || pi_old) as "kl" (unbiased, because q drew the samples), and
            whether the weight was outside its bounds as "capped".
        """
        log_ratio_T = (inputs.old_logps_T - sampler_logps_T).detach()
        gaps = {
            "ratio": bounded_exp(log_ratio_T),
            "kl": kl_divergence("k3", sampler_logps_T, inputs.old_logps_T),
        }
        if self.sampler_correction == "none":
            return torch.ones_like(log_ratio_T), gaps

        # the weight of a whole response is the product over its tokens
        if self.sampler_correction == "sequence":
            log_ratio_B = segment_sum(log_ratio_T, inputs.segments_T, inputs.rows)
            log_ratio_T = log_ratio_B[inputs.segments_T]
        weight_T = bounded_exp(log_ratio_T)

        # a weight outside its bounds is moved to the nearer one, or its token left out
        is_outside_T = (weight_T > self.sampler_cap) | (weight_T < self.sampler_floor)
        gaps["capped"] = is_outside_T.to(log_ratio_T.dtype)
        if self.sampler_mode == "mask":
            return weight_T.masked_fill(is_outside_T, 0.0), gaps
        return weight_T.clamp(self.sampler_floor, self.sampler_cap), gaps

    def refuse_truncated(self, params: SamplingParams, reports_logps: bool) -> None:
        """Refuse importance weights whose sampling distribution is truncated.

        The weights compare whole distributions; a sampler cut by top-p or top-k draws from another
        one.

        Args:
            params: how responses are sampled.
            reports_logps: whether the engine reports the log-probabilities that it sampled with.

        Raises:
            ValueError: the engine reports log-probabilities of a distribution cut by top-p or
                top-k, and a correction is set.
        """
        is_truncated = params.top_p < 1 or params.top_k > 0
        if is_truncated and reports_logps and self.sampler_correction != "none":
            raise ValueError(
                f"top_p={params.top_p:g}, top_k={params.top_k}: the engine's log-probabilities are "
                "those of the truncated distribution, with which algorithm.sampler_correction="
                f"{self.sampler_correction} must not weigh; sample untruncated, or set it to none"
            )

    def _clipped(
        self,
        ratio_T: Tensor,
        advantages_T: Tensor,
        clip_low: Tensor | float,
        clip_high: Tensor | float,
    ) -> Tensor:
        """Which tokens have a surrogate that clipping cuts, as 1 or 0."""
        too_high_T = ratio_T > 1 + clip_high
        if self.surrogate == "cispo":
            return too_high_T.float()

        # a bound cuts only on the side to which the advantage pushes
        too_low_T = ratio_T < 1 - clip_low
        cut_above_T = too_high_T & (advantages_T > 0)
        cut_below_T = too_low_T & (advantages_T < 0)
        return (cut_above_T | cut_below_T).float()


def surrogate_cost(
    surrogate: str,
    ratio_T: Tensor,
    advantages_T: Tensor,
    logps_T: Tensor,
    clip_low: Tensor | float,
    clip_high: Tensor | float,
) -> Tensor:
    """Cost l_t of each token, (T,), without weights; see the module for the two surrogates.

    The clip bounds are numbers, or (T,) with one for each token; inf switches clipping off.
    """
    if surrogate == "cispo":
        # the ratio is a mere weight: every token keeps a gradient through its log pi
        capped_T = ratio_T.clamp(max=1 + clip_high).detach()
        return -capped_T * advantages_T * logps_T

    # the pessimistic bound of PPO: clipping never makes a token look better
    clipped_T = ratio_T.clamp(min=1 - clip_low).clamp(max=1 + clip_high)
    return -torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)


def kl_divergence(estimator: str, logps_T: Tensor, ref_logps_T: Tensor) -> Tensor:
    """Estimate of KL(pi || pi_ref) from each sampled token of pi, (T,), in nats.

    Args:
        estimator: "k1", "k2" or "k3", see the module.
        logps_T: log pi(y_t).
        ref_logps_T: log pi_ref(y_t).
    """
    difference_T = ref_logps_T - logps_T
    if estimator == "k1":
        return -difference_T  # unbiased, often negative
    if estimator == "k2":
        return 0.5 * difference_T.square()  # biased, never negative
    # unbiased and never negative
    return bounded_exp(difference_T) - difference_T - 1


def anchor_penalty(kind: str, logps_T: Tensor, anchor_logps_T: Tensor) -> Tensor:
    """How far each token's log-probability is from its anchor, (T,), never negative, 0 on it.

    With d = anchor - log pi and u = exp(d):

        abs   |d|                                      KL-Cov (arXiv 2505.22617)
        k3    u - d - 1                                mean over pi: KL(pi || anchor)
        js    u log u - (u + 1) log((u + 1) / 2)       mean over pi: twice the Jensen-Shannon
                                                       divergence (DPH-RL, arXiv 2509.07430)

    The slope of abs is 0 where |d| is at most `ANCHOR_RESOLUTION`, as at the first update of a
    batch, where d is 0 up to rounding.

    Args:
        kind: one of `ANCHOR_KINDS`.
        logps_T: log pi(y_t), which carries the gradient.
        anchor_logps_T: the anchors.

    Raises:
        ValueError: an unknown kind.
    """
    difference_T = anchor_logps_T - logps_T
    if kind == "abs":
        # the value is exact, only the slope of rounding is left out
        distance_T = difference_T.abs()
        is_rounding_T = distance_T <= ANCHOR_RESOLUTION
        return torch.where(is_rounding_T, distance_T.detach(), distance_T)
    if kind == "k3":
        return kl_divergence("k3", logps_T, anchor_logps_T)
    if kind != "js":
        raise ValueError(f"unknown kind of penalty {kind!r}, choose one of {ANCHOR_KINDS}")

    # log((u + 1) / 2) is softplus(d) - log 2, and d - softplus(d) is -softplus(-d)
    softplus = torch.nn.functional.softplus
    u_T = bounded_exp(difference_T)
    return u_T * (LOG_2 - softplus(-difference_T)) + LOG_2 - softplus(difference_T)


def response_weights(
    normalizer: str, lengths_N: Tensor, group_N: Tensor, max_tokens: int
) -> Tensor:
    """Weight w_n of every token of response n under a normaliser, with the module's formulas.

    Args:
        normalizer: one of `NORMALIZERS`.
        lengths_N: response lengths in tokens over the whole mini-batch.
        group_N: which prompt each response answers (any integer labels).
        max_tokens: T_max of the constant normaliser.

    Returns:
        (N,) float32; empty responses weigh 0.
    """
    tokens_N = lengths_N.to(torch.float32)
    response_count = float(max(tokens_N.numel(), 1))
    if normalizer == "token_mean":
        # every token weighs the same, so long responses weigh more
        weights_N = torch.full_like(tokens_N, 1.0) / tokens_N.sum().clamp_min(1.0)
    elif normalizer == "sequence_mean":
        # every response weighs the same, whatever its length
        weights_N = 1.0 / (response_count * tokens_N.clamp_min(1.0))
    elif normalizer == "sequence_sum":
        # the sum over a response is not divided by its length
        weights_N = torch.full_like(tokens_N, 1.0 / response_count)
    elif normalizer == "constant":
        # the divisor is the same for all batches
        weights_N = torch.full_like(tokens_N, 1.0 / (response_count * max_tokens))
    elif normalizer == "group_mean":
        # a mean over the tokens of each prompt's group, then over prompts
        labels_P, index_N = torch.unique(group_N, return_inverse=True)
        prompt_count = labels_P.numel()
        tokens_P = tokens_N.new_zeros(prompt_count).index_add(0, index_N, tokens_N)
        weights_N = 1.0 / (prompt_count * tokens_P.clamp_min(1.0)[index_N])
    else:
        raise ValueError(f"unknown normalizer {normalizer!r}, choose one of {NORMALIZERS}")

    # a response without tokens must not weigh 1 / 0
    return torch.where(tokens_N > 0, weights_N, torch.zeros_like(weights_N))

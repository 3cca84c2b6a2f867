"""The token level of a signal: a plan for the tokens of one optimizer update.

A signal that has a method `tokens(view) -> TokenPlan` is asked once for every mini-batch, before
its backward. It sees the tokens of the *whole* mini-batch, of all ranks, so what it plans depends
neither on the size of micro-batches nor on the number of processes. Such a signal needs {"logps",
"token_entropy"}: then every response is scored before the update.

What it sees are log-probabilities and entropies under the policy that sampled (the *behaviour*
policy), also in later mini-batches and epochs. Most papers select with the numbers of the policy
that is being updated, micro-batch by micro-batch. At the first update of a batch the two are the
same; afterwards this is a deviation, and the price of a plan that depends on nothing but the data.

Plans of several signals act together by `merge_plans`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

RESOLUTION = 1e-4
"""Values that are nearer than this count as equal in `top_tokens`. Log-probabilities of one token
in two micro-batches differ by about 1e-6, and responses of a group share their first tokens."""


@dataclass(slots=True, frozen=True)
class TokenView:
    """The T response tokens of the B responses of one mini-batch, row after row."""

    advantages_T: Tensor
    """Advantage of each token, with the signal's `token_bonus`."""
    old_logps_T: Tensor
    """Log-probability under the behaviour policy."""
    entropy_T: Tensor
    """Entropy of the behaviour policy's distribution, in nats."""
    segments_T: Tensor
    """Number of the response within the mini-batch, 0 to B - 1 (int64)."""
    group_B: Tensor
    """Prompt number of each response."""
    key: tuple[int, ...] = ()
    """Decides what is drawn at random; another one for every update."""

    @property
    def token_count(self) -> int:
        """T."""
        return self.advantages_T.numel()

    def generator(self) -> np.random.Generator:
        """Random numbers that are the same on every rank and in a resumed run."""
        # numpy's generator, because torch's would depend on the device
        return np.random.default_rng(np.random.SeedSequence(self.key))


@dataclass(slots=True, frozen=True)
class TokenPlan:
    """What a signal wants of the tokens of a mini-batch. All tensors are (T,); None leaves as is.

    With the surrogate l_t of `g2rl.formulas.losses`, a token costs

        m_t l_t(A_t + s_t, clip_low_t, clip_high_t) + a_t D(log pi(y_t), anchor_t).
    """

    advantage_shift_T: Tensor | None = None
    """s_t, added to the advantage."""
    weight_T: Tensor | None = None
    """m_t >= 0, a factor of the surrogate; 0 leaves the token out of it."""
    renormalise: bool = False
    """Scale the weights so that the mini-batch weighs in all what it weighs without a plan. Under
    token_mean this is the mean over the kept tokens."""
    clip_low_T: Tensor | None = None
    """Ratio bounds 1 - clip_low and 1 + clip_high in place of the algorithm's; inf for none."""
    clip_high_T: Tensor | None = None
    anchor_weight_T: Tensor | None = None
    """a_t >= 0, strength of the penalty."""
    anchor_logps_T: Tensor | None = None
    """Where the penalty draws log pi to; None is the behaviour policy."""
    anchor_kind: str = "k3"
    """"k3", "abs" or "js", see `g2rl.formulas.losses.anchor_penalty`."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Scalars for metrics.jsonl, logged as update/NAME, means over the mini-batches."""

    def check(self, signal: str, token_count: int) -> None:
        """Refuse a plan that cannot be carried out.

        Args:
            signal: name of the signal, for the message.
            token_count: T.

        Raises:
            ValueError: a tensor of another shape, a weight or a bound that is negative or NaN, or
                an infinite weight.
        """
        for name in PLAN_TENSORS:
            values_T = getattr(self, name)
            if values_T is None:
                continue

            # one number for each token of the mini-batch
            if values_T.shape != (token_count,):
                raise ValueError(
                    f"exploration={signal}: {name} of its token plan has the shape "
                    f"{tuple(values_T.shape)}, the mini-batch has {token_count} tokens"
                )

            # only bounds may be infinite, and shifts and anchors may be negative
            is_bad_T = torch.isnan(values_T)
            if name in ("weight_T", "anchor_weight_T"):
                is_bad_T |= torch.isinf(values_T)
            if name not in ("advantage_shift_T", "anchor_logps_T"):
                is_bad_T |= values_T < 0
            if is_bad_T.any():
                raise ValueError(
                    f"exploration={signal}: {name} of its token plan is {values_T[is_bad_T][0]} "
                    f"for {int(is_bad_T.sum())} of {token_count} tokens"
                )


PLAN_TENSORS = (
    "advantage_shift_T",
    "weight_T",
    "clip_low_T",
    "clip_high_T",
    "anchor_weight_T",
    "anchor_logps_T",
)
"""Fields of `TokenPlan` that hold one number for each token."""

TokenPlanner = Callable[[TokenView], TokenPlan]


def probe_view() -> TokenView:
    """Two tokens of two responses, on which plans can be tried before anything is sampled."""
    return TokenView(
        advantages_T=torch.tensor([1.0, -1.0]),
        old_logps_T=torch.tensor([-1.0, -2.0]),
        entropy_T=torch.tensor([1.0, 0.5]),
        segments_T=torch.tensor([0, 1]),
        group_B=torch.tensor([0, 0]),
        key=(0,),
    )


def top_tokens(values_T: Tensor, count: int) -> Tensor:
    """Which tokens have the `count` largest values, (T,) boolean; of equal values the earlier ones.

    Values count as equal up to `RESOLUTION`, so that rounding does not decide between them.

    Args:
        values_T: any finite numbers.
        count: 0 to T.
    """
    # a stable sort leaves ties in the order of the tokens
    coarse_T = (values_T.double() / RESOLUTION).round()
    order_T = torch.sort(coarse_T, descending=True, stable=True).indices

    # from ranks back to a mask
    is_top_T = torch.zeros(values_T.shape, dtype=torch.bool)
    is_top_T[order_T[:count]] = True
    return is_top_T


def token_covariance(advantages_T: Tensor, logps_T: Tensor) -> Tensor:
    """How much each token adds to the covariance of advantage and log-probability, (T,) float64.

        cov_t = (A_t - mean A) (log pi(y_t) - mean log pi)

    arXiv 2505.22617. The change of the policy's entropy in a step is about minus the mean of this:
    likely tokens of high advantage make it fall. The means run over all T tokens; equal advantages
    or equal log-probabilities give 0.
    """
    # in float64, because many numbers are added
    advantages_T, logps_T = advantages_T.double(), logps_T.double()
    return (advantages_T - advantages_T.mean()) * (logps_T - logps_T.mean())


def merge_plans(plans: Sequence[tuple[str, TokenPlan]]) -> TokenPlan:
    """One plan that does what several signals want of the same tokens.

    Shifts of the advantage add up, weights multiply, metrics are joined. Clip bounds and penalties
    belong to one signal each.

    Args:
        plans: name of each signal, and its plan. All were made of the same view: a signal does not
            see the shift of another.

    Raises:
        ValueError: two signals set the same clip bound or both have a penalty, or both renormalise.
    """
    # field by field, with the signal that set it first
    merged: dict[str, Tensor] = {}
    owner: dict[str, str] = {}
    for signal, plan in plans:
        for name in PLAN_TENSORS:
            values_T = getattr(plan, name)
            if values_T is None:
                continue

            # two bounds or two penalties have no meaning together
            if name in merged and name in ("clip_low_T", "clip_high_T", "anchor_weight_T"):
                raise ValueError(
                    f"exploration: {owner[name]} and {signal} both set {name} of the tokens; "
                    "choose one of them"
                )
            merged[name] = _joined(name, merged.get(name), values_T)
            owner[name] = signal

    # settings that are no tensors
    renormalising = [signal for signal, plan in plans if plan.renormalise]
    if len(renormalising) > 1:
        raise ValueError(f"exploration: {renormalising} all renormalise the weights of tokens")

    # at most one penalty is left, and its kind goes with it
    kinds = [plan.anchor_kind for _, plan in plans if plan.anchor_weight_T is not None]
    metrics: dict[str, float] = {}
    for _, plan in plans:
        metrics |= plan.metrics
    return TokenPlan(
        **merged,
        renormalise=bool(renormalising),
        anchor_kind=kinds[0] if kinds else "k3",
        metrics=metrics,
    )


def _joined(name: str, before_T: Tensor | None, values_T: Tensor) -> Tensor:
    """What two plans say together of a field; the first says None of it at the beginning."""
    if before_T is None:
        return values_T
    # advantages add, weights multiply
    if name == "advantage_shift_T":
        return before_T + values_T
    return before_T * values_T

"""From the token plan of a signal to the inputs of the loss, for one mini-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from g2rl.exploration.token_plan import TokenPlan, TokenPlanner, TokenView
from g2rl.policy.scoring import Scores, require_scored

TOKEN_PLAN_STREAM = 0x70C5

LOSS_FIELDS = {
    "clip_low_T": "clip_low_T",
    "clip_high_T": "clip_high_T",
    "anchor_weight_T": "anchor_weights_T",
    "anchor_logps_T": "anchor_logps_T",
}
"""Fields of a `TokenPlan` that go into `LossInputs` as they are, and their names there."""


@dataclass(slots=True, frozen=True)
class PlannedTokens:
    """A token plan that has been carried over to the responses of its mini-batch."""

    fields: dict[str, dict[int, Tensor]]
    """Field of `LossInputs` to number of the response to its tokens' values, (T_n,)."""
    shifts: dict[int, Tensor] | None = None
    """What is added to the advantages of each response's tokens."""
    anchor_kind: str = "k3"
    metrics: dict[str, float] = field(default_factory=dict)
    """What the signal says of its plan."""

    def tokens_of(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """The fields of `LossInputs` for some responses, row after row."""
        tokens: dict[str, Tensor] = {}
        for name, values_of_row in self.fields.items():
            tokens[name] = torch.cat([values_of_row[n] for n in rows])
        return tokens


def token_view(
    rows: Sequence[int],
    advantages_N: Tensor,
    token_bonus: list[Tensor] | None,
    behaviour: Scores,
    group_N: Tensor,
    key: tuple[int, ...],
) -> TokenView:
    """What a signal sees of the responses of a mini-batch.

    Args:
        rows: the responses.
        advantages_N, token_bonus, group_N: of all N responses of the step.
        behaviour: scores of all responses under the policy that sampled.
        key: of the random numbers of this update.

    Raises:
        ValueError: a response of the mini-batch has not been scored.
    """
    # both come from one forward of the behaviour policy
    logps = require_scored([behaviour.logps[n] for n in rows])
    entropies = require_scored([behaviour.entropies[n] for n in rows])
    lengths_B = torch.tensor([values_T.numel() for values_T in logps])

    # a token has the advantage of its response, and its own bonus
    segments_T = torch.arange(len(rows)).repeat_interleave(lengths_B)
    advantages_T = advantages_N[list(rows)].to(torch.float32)[segments_T]
    if token_bonus is not None:
        advantages_T = advantages_T + torch.cat([token_bonus[n] for n in rows])
    return TokenView(
        advantages_T=advantages_T,
        old_logps_T=torch.cat(logps),
        entropy_T=torch.cat(entropies),
        segments_T=segments_T,
        group_B=group_N[list(rows)],
        key=key,
    )


def plan_tokens(
    planner: TokenPlanner, view: TokenView, rows: Sequence[int], weights_B: Tensor
) -> PlannedTokens:
    """Ask a signal for its plan and carry it over to the responses.

    Numbers that are not finite are shown to no signal. Their tokens get the weight NaN instead, by
    which the update is recognised as bad, skipped and counted.

    Args:
        planner: the signal's `tokens`, whose plan fits the view.
        view: the tokens of the mini-batch.
        rows: its responses.
        weights_B: weight of every token of a response, given by the normaliser.
    """
    # a comparison with NaN is false, so a plan made of NaN would look like a good one
    is_bad_T = torch.zeros(view.token_count, dtype=torch.bool)
    for values_T in (view.advantages_T, view.old_logps_T, view.entropy_T):
        is_bad_T |= ~torch.isfinite(values_T)
    if is_bad_T.any():
        weight_T = torch.ones(view.token_count).masked_fill(is_bad_T, torch.nan)
        plan = TokenPlan(weight_T=weight_T)
    else:
        plan = planner(view)

    # the plan's tensors, response by response
    lengths = torch.bincount(view.segments_T, minlength=len(rows)).tolist()
    fields: dict[str, dict[int, Tensor]] = {}
    for name, name_in_loss in LOSS_FIELDS.items():
        values_T = getattr(plan, name)
        if values_T is not None:
            fields[name_in_loss] = _by_row(values_T, rows, lengths)

    # weights are scaled over the whole mini-batch, so micro-batches need not know of it
    if plan.weight_T is not None:
        factor = 1.0
        if plan.renormalise:
            factor = _renormaliser(plan.weight_T, weights_B[view.segments_T])
        fields["plan_weights_T"] = _by_row(factor * plan.weight_T, rows, lengths)

    # shifts are no input of the loss, they join the advantages
    shifts = None
    if plan.advantage_shift_T is not None:
        shifts = _by_row(plan.advantage_shift_T, rows, lengths)
    return PlannedTokens(fields, shifts, plan.anchor_kind, dict(plan.metrics))


def _renormaliser(plan_weights_T: Tensor, weights_T: Tensor) -> float:
    """The factor that gives the mini-batch the weight it has without a plan; 1 if nothing is
    kept."""
    # in float64, so that the sums agree for any number of tokens
    kept = float((weights_T.double() * plan_weights_T.double()).sum())
    if kept == 0:
        return 1.0
    return float(weights_T.double().sum()) / kept


def _by_row(values_T: Tensor, rows: Sequence[int], lengths: list[int]) -> dict[int, Tensor]:
    """Split the tokens of a mini-batch into those of its responses, float32 on the CPU."""
    # the loss of a micro-batch moves what it needs to the policy's device
    parts = values_T.to(device="cpu", dtype=torch.float32).split(lengths)
    return dict(zip(rows, parts, strict=True))

"""The gradient of one micro-batch: its forward, loss and backward; and the records that the update
works on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from g2rl.exploration.token_plan import TokenPlanner
from g2rl.formulas.losses import LossInputs, PolicyLoss
from g2rl.formulas.tensors import bounded_exp
from g2rl.policy.batching import MicroBatch, Sequences
from g2rl.policy.lm_head import HeadOutput, Objective
from g2rl.policy.packing import form_micro_batch
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import Scores, require_scored
from g2rl.training.token_plans import PlannedTokens


class BehaviourSource(Enum):
    """Where the behaviour policy's log-probabilities of a mini-batch come from."""

    UPDATE_FORWARD = "update forward"
    """From the update's own forward: no weight has changed since sampling and there is no dropout,
    so this forward *is* the behaviour policy's. It is used even where the responses have been
    scored as well, so that training does not depend on what an observer had scored."""
    SCORES = "scores"
    """From `UpdateBatch.behaviour`, because the weights have changed since."""


@dataclass(slots=True)
class UpdateBatch:
    """One rollout batch as the update sees it: N responses with their advantages."""

    sequences: Sequences
    group_N: Tensor
    """Prompt number of each response."""
    advantages_N: Tensor
    behaviour: Scores
    """Scores under the policy that sampled. The first mini-batch may be unscored: its update
    forward runs before any weight changes, so its log-probabilities are the behaviour policy's."""
    first_source: BehaviourSource = BehaviourSource.UPDATE_FORWARD
    """Source of the first mini-batch; all later ones take `SCORES`."""
    ref_logps: list[Tensor] | None = None
    """Log-probabilities under the reference policy, N tensors (T_n,)."""
    sampler_logps: list[Tensor] | None = None
    """Log-probabilities reported by an engine that samples with weights of its own, N tensors
    (T_n,)."""
    token_bonus: list[Tensor] | None = None
    """Added to the advantage of each token, N tensors (T_n,)."""
    entropy_coef: float = 0.0
    """Coefficient of the entropy bonus: loss -= entropy_coef * mean token entropy."""
    keep_N: Tensor | None = None
    """Boolean: responses that take part. The others are in no mini-batch and count in no mean, as
    if they had not been sampled. None keeps all."""
    token_planner: TokenPlanner | None = None
    """Plans the tokens of every mini-batch; then all responses must have been scored."""
    kept_forwards: dict[tuple[int, ...], HeadOutput] = field(default_factory=dict)
    """Forwards that scoring ran on the update's behalf, by the rows of their micro-batch. The
    update takes each out when it differentiates it, which frees its activations."""

    def rows_taking_part(self, rows: list[int]) -> list[int]:
        """Those of some rows that `keep_N` keeps."""
        if self.keep_N is None:
            return rows
        return [n for n in rows if self.keep_N[n]]

    def tensors(self, rows: list[int], behaviour: Scores) -> dict[str, Tensor]:
        """What an update of some rows is computed from, for the record of a failure.

        Args:
            rows: the rows of the mini-batch that failed.
            behaviour: scores of all responses.

        Returns:
            Tensors by name. Those that end in _T hold the tokens of all N responses one after the
            other. The log-probabilities of a response that took no part, and so was never scored,
            are NaN.
        """
        logps: list[Tensor] = []
        for logps_T, response in zip(behaviour.logps, self.sequences.responses, strict=True):
            unknown_T = torch.full((len(response),), math.nan)
            logps.append(unknown_T if logps_T is None else logps_T)

        # what every update has
        tensors = {
            "update_rows": torch.tensor(rows),
            "response_lengths_N": self.sequences.lengths_N,
            "advantages_N": self.advantages_N,
            "old_logps_T": torch.cat(logps),
        }

        # what depends on the algorithm and the signal
        if self.ref_logps is not None:
            tensors["ref_logps_T"] = torch.cat(self.ref_logps)
        if self.token_bonus is not None:
            tensors["token_bonus_T"] = torch.cat(self.token_bonus)
        return tensors


@dataclass(slots=True, frozen=True)
class MiniBatch:
    """The responses of one optimizer update, and what their losses are divided by."""

    rows: list[int]
    weights_N: Tensor
    """Weight w_t of every token of a response, float32, given by the normaliser over the whole
    mini-batch; 0 for responses outside it."""
    token_share: float
    """1 / (tokens of the mini-batch)."""
    source: BehaviourSource
    plan: PlannedTokens | None = None
    """What the signal wants of single tokens."""

    @property
    def plan_metrics(self) -> dict[str, float]:
        """What the signal says of its plan."""
        return {} if self.plan is None else self.plan.metrics


@dataclass(slots=True, frozen=True)
class LossContext:
    """What the loss of a micro-batch needs besides the policy's forward."""

    tokens: dict[str, Tensor]
    """Fields of `LossInputs` by name, each (T,). Without `old_logps_T`, the behaviour policy's
    log-probabilities are those of the forward itself."""
    row_count: int
    anchor_kind: str = "k3"
    """Kind of the penalty of a token plan."""

    def loss_inputs(self, tile: slice, logps_T: Tensor, entropy_T: Tensor) -> LossInputs:
        """Inputs for the tokens of a tile, whose log-probabilities and entropies are given."""
        # without log-probabilities of its own, the behaviour policy is that of this forward
        fields = {name: value_T[tile] for name, value_T in self.tokens.items()}
        fields.setdefault("old_logps_T", logps_T.detach())
        return LossInputs(
            logps_T=logps_T,
            entropy_T=entropy_T,
            rows=self.row_count,
            anchor_kind=self.anchor_kind,
            **fields,
        )


@dataclass(slots=True, frozen=True)
class MicroBatchResult:
    """What one micro-batch adds to its mini-batch."""

    metrics: dict[str, float]
    """This micro-batch's share of the mini-batch's means."""
    bad_rows: list[int]
    """Responses whose loss is not finite."""
    logps_T: Tensor
    """Log-probabilities of the forward, without gradients, row after row."""
    entropy_T: Tensor
    """Token entropies of the forward, without gradients, row after row."""


@dataclass(slots=True, frozen=True)
class MicroUpdate:
    """Adds the gradient of one micro-batch to what the policy's parameters have accumulated.

    Args:
        policy: forwarded and differentiated.
        loss: the policy loss.
        temperature: sampling temperature, at which log-probabilities are taken.
    """

    policy: Policy
    loss: PolicyLoss
    temperature: float

    def __call__(
        self, batch: UpdateBatch, behaviour: Scores, mini_batch: MiniBatch, rows: list[int]
    ) -> MicroBatchResult:
        """Forward some rows of a mini-batch, take their loss and differentiate it.

        Args:
            batch: the rollout batch.
            behaviour: its scores so far, which are read and not changed.
            mini_batch: the mini-batch that the rows belong to.
            rows: the responses of this micro-batch.
        """
        # the tokens of this micro-batch, and what the loss needs of them besides the forward
        micro_batch = form_micro_batch(
            batch.sequences, rows, self.policy.device, self.policy.shares_prefixes
        )
        context = self._loss_context(batch, behaviour, mini_batch, micro_batch)

        # a kept forward serves the micro-batch if no weight has changed since
        forward_was_kept = tuple(rows) in batch.kept_forwards
        output = None
        if mini_batch.source is BehaviourSource.UPDATE_FORWARD:
            output = batch.kept_forwards.pop(tuple(rows), None)
        if output is None:
            output = self._forward(batch, micro_batch, context)

        # a fused head has differentiated the loss already; the formula below is then for the
        # metrics
        inputs = context.loss_inputs(slice(None), output.logps_T, output.entropy_T)
        loss, loss_parts = self.loss(inputs, batch.entropy_coef)
        differentiable = loss if output.loss is None else output.loss
        differentiable.backward()

        # metrics are shares of the mini-batch's means, in one transfer from the device
        values = torch.stack([*loss_parts.values(), loss]).tolist()
        metrics = dict(zip([*loss_parts, "loss"], values, strict=True))
        if mini_batch.source is BehaviourSource.UPDATE_FORWARD and not forward_was_kept:
            metrics |= self._first_ratio(behaviour, mini_batch, rows, inputs)

        # rows are looked for only where the sum is bad, since that costs a pass over all numbers
        bad_rows: list[int] = []
        if not math.isfinite(metrics["loss"]):
            bad_rows = [rows[place] for place in inputs.bad_rows()]
        return MicroBatchResult(
            metrics, bad_rows, output.logps_T.detach(), output.entropy_T.detach()
        )

    def _forward(
        self, batch: UpdateBatch, micro_batch: MicroBatch, context: LossContext
    ) -> HeadOutput:
        """Run the policy's forward, with the loss fused into the head where it is a sum over
        tokens."""

        def loss_of_tile(tile: slice, logps_T: Tensor, entropy_T: Tensor) -> Tensor:
            return self.loss(context.loss_inputs(tile, logps_T, entropy_T), batch.entropy_coef)[0]

        # a loss that ties tokens together needs all of them before it can be differentiated
        objective: Objective | None = None
        if self.loss.by_token(batch.sampler_logps):
            objective = loss_of_tile
        return self.policy(micro_batch, self.temperature, objective=objective)

    def _first_ratio(
        self, behaviour: Scores, mini_batch: MiniBatch, rows: list[int], inputs: LossInputs
    ) -> dict[str, float]:
        """Compare this forward with the one that scored the same rows under the same weights.

        Returns:
            The share of this micro-batch in the mean importance ratio, which is 1 up to rounding;
            nothing where the rows were not scored.
        """
        scored = [behaviour.logps[n] for n in rows]
        if any(logps is None for logps in scored):
            return {}

        # both forwards had the same weights, so they differ by rounding alone
        scored_logps_T = torch.cat(require_scored(scored)).to(inputs.old_logps_T.device)
        ratio_T = bounded_exp(inputs.old_logps_T - scored_logps_T)
        return {"first_ratio": mini_batch.token_share * ratio_T.sum().item()}

    def _loss_context(
        self,
        batch: UpdateBatch,
        behaviour: Scores,
        mini_batch: MiniBatch,
        micro_batch: MicroBatch,
    ) -> LossContext:
        """Gather what the loss needs besides the forward, token by token."""
        rows, device = micro_batch.rows, self.policy.device

        def tokens_of(values: Sequence[Tensor | None]) -> Tensor:
            """Concatenate the tokens of the rows."""
            return torch.cat(require_scored([values[n] for n in rows])).to(device)

        def spread(values_N: Tensor) -> Tensor:
            """Give every token the value of its row, float32."""
            values_B = values_N[rows].to(device=device, dtype=torch.float32)
            return values_B[micro_batch.segments_T]

        # what every loss needs
        advantages_T = spread(batch.advantages_N)
        tokens = {
            "weights_T": spread(mini_batch.weights_N),
            "segments_T": micro_batch.segments_T,
            "token_share_T": torch.full_like(advantages_T, mini_batch.token_share),
        }

        # what depends on the algorithm, the engine and the signal
        if batch.token_bonus is not None:
            advantages_T = advantages_T + tokens_of(batch.token_bonus)
        if mini_batch.source is BehaviourSource.SCORES:
            tokens["old_logps_T"] = tokens_of(behaviour.logps)
        if batch.ref_logps is not None:
            tokens["ref_logps_T"] = tokens_of(batch.ref_logps)
        if batch.sampler_logps is not None:
            tokens["sampler_logps_T"] = tokens_of(batch.sampler_logps)

        # what the signal wants of single tokens
        anchor_kind = "k3"
        if mini_batch.plan is not None:
            for name, values_T in mini_batch.plan.tokens_of(rows).items():
                tokens[name] = values_T.to(device)
            if mini_batch.plan.shifts is not None:
                shift_T = torch.cat([mini_batch.plan.shifts[n] for n in rows])
                advantages_T = advantages_T + shift_T.to(device)
            anchor_kind = mini_batch.plan.anchor_kind
        tokens["advantages_T"] = advantages_T
        return LossContext(tokens, len(rows), anchor_kind)

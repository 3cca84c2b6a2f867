"""The optimizer step: mini-batches of whole groups, micro-batches by length, one normaliser per
mini-batch.

A rollout batch is split into mini-batches of whole groups, one optimizer update each. A mini-batch
is split into micro-batches, which fit the memory; their gradients add up. What a token weighs is
decided over the whole mini-batch, so the result depends neither on micro-batches nor on the number
of processes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from g2rl.formulas.losses import PolicyLoss, response_weights
from g2rl.policy.batching import Sequences, mini_batches
from g2rl.policy.packing import computed_tokens, plan_batches, rows_of_this_rank
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import (
    ScorePlan,
    Scores,
    idle_batch,
    pad_plan_to_longest_rank,
)
from g2rl.policy.sharding import divided_like, sharded_modules, whole
from g2rl.training.bad_numbers import BadNumbersError
from g2rl.training.micro_batch_update import (
    BehaviourSource,
    MicroBatchResult,
    MicroUpdate,
    MiniBatch,
    UpdateBatch,
)
from g2rl.training.optimizer import OptimizerSettings, parameter_groups
from g2rl.training.token_plans import TOKEN_PLAN_STREAM, plan_tokens, token_view
from g2rl.world import World

MINI_BATCH_STREAM = 0x5417


class UpdateError(BadNumbersError):
    """Training numbers have gone bad for too many updates in a row."""


@dataclass(slots=True, frozen=True)
class UpdateResult:
    """What the update did with one rollout batch."""

    metrics: dict[str, float]
    """Means over its optimizer updates."""
    behaviour: Scores
    """Scores of all responses under the policy that sampled, those that the update's own forward
    has supplied included."""


class Updater:
    """Owns the optimizer and applies the policy loss to rollout batches.

    Args:
        policy: trained in place.
        loss: the policy loss.
        settings: optimizer and batching.
        temperature: sampling temperature, at which log-probabilities are taken.
        max_tokens: T_max of the constant normaliser.
        total_updates: length of the learning-rate schedule.
        seed: decides the order in which groups are split into mini-batches.
        world: the ranks that share the rows of every mini-batch; all hold the same rollout batch.
    """

    def __init__(
        self,
        policy: Policy,
        loss: PolicyLoss,
        settings: OptimizerSettings,
        *,
        temperature: float,
        max_tokens: int,
        total_updates: int,
        seed: int,
        world: World | None = None,
    ) -> None:
        self.policy, self.loss, self.settings = policy, loss, settings
        self.temperature, self.max_tokens, self.seed = temperature, max_tokens, seed
        self.total_updates = total_updates
        self.world = world or World()

        # counts that a checkpoint carries over
        self.updates = 0
        self.bad_in_a_row = 0
        self.micro_update = MicroUpdate(policy, loss, temperature)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(policy, settings.weight_decay),
            settings.lr,
            settings.betas,
            settings.eps,
        )

    # --- before the update: what has to be scored

    def score_plan(
        self,
        sequences: Sequences,
        group_N: Tensor,
        step: int,
        *,
        every_response: bool,
        may_keep_forwards: bool,
    ) -> ScorePlan:
        """Which responses are scored before the update: those the update needs, or all of them.

        Args:
            sequences: the N responses of the step.
            group_N: their prompt numbers.
            step: the training step.
            every_response: a signal reads features or entropies, so that all have to be scored.
            may_keep_forwards: forwards may be kept for the update where that costs no memory of its
                own.
        """
        # the update's own needs
        needed_rows = self.rows_to_score(group_N, step)
        if not every_response:
            return ScorePlan([needed_rows])

        kept_micro_batches: list[list[int]] = []
        if may_keep_forwards:
            kept_micro_batches = self.forwards_to_keep(sequences, group_N, step)
        planned = set(needed_rows)
        for rows in kept_micro_batches:
            planned.update(rows)
        other_rows = [n for n in range(len(sequences)) if n not in planned]
        return ScorePlan([needed_rows, other_rows], kept_micro_batches)

    def rows_to_score(self, group_N: Tensor, step: int) -> list[int]:
        """Responses whose behaviour log-probabilities must be known before the update of this step.

        Those of the first mini-batch need not be known, because its update forward runs before any
        weight changes (`BehaviourSource.UPDATE_FORWARD`). With dropout all are needed: the update's
        forward then differs from the one that sampled.
        """
        first_rows: set[int] = set()
        if not self.policy.has_dropout:
            first_rows = set(self._mini_batches(group_N, step, epoch=0)[0])
        return [n for n in range(group_N.numel()) if n not in first_rows]

    def forwards_to_keep(self, sequences: Sequences, group_N: Tensor, step: int) -> list[list[int]]:
        """Micro-batches of the first mini-batch that scoring should forward on the update's behalf.

        Where a signal looks at features or entropies, these responses are scored before the update,
        with the same weights, so one forward can serve both. We keep the forward only if it needs
        no memory beyond what the update needs anyway: the mini-batch fits the token budget of one
        micro-batch (and, if a forward copies weights, is exactly one micro-batch). With several
        ranks, a sharded policy or dropout nothing is kept.
        """
        if self.policy.has_dropout or self.world.size > 1 or self.policy.sharding is not None:
            return []

        # no more than one micro-batch's activations
        plan = self._micro_batches(sequences, self._mini_batches(group_N, step, epoch=0)[0])
        tokens = computed_tokens(sequences, plan, self.policy.shares_prefixes)
        if tokens > self.settings.micro_batch_tokens:
            return []
        if self.policy.copies_weights and len(plan) != 1:
            return []
        return plan

    # --- the update

    def step(self, batch: UpdateBatch, step: int) -> UpdateResult:
        """Run all optimizer updates on one rollout batch.

        Args:
            batch: the rollout batch; its kept forwards are taken out, nothing else of it changes.
            step: the training step.

        Raises:
            ValueError: a response that is updated after the weights have changed was not scored.
            UpdateError: too many updates in a row were bad.
        """
        # random numbers of the forward are a function of the step, so a resumed run draws the same
        torch.manual_seed(self.seed * 1_000_003 + step)  # dropout, in a model that has it
        self._require_scores(batch, step)

        # without dropout, the first mini-batch's own forward is the behaviour policy's
        source = batch.first_source
        if self.policy.has_dropout:
            source = BehaviourSource.SCORES

        # one optimizer update a mini-batch
        behaviour = batch.behaviour.copy()
        values_by_name: dict[str, list[float]] = defaultdict(list)
        for epoch in range(self.settings.epochs):
            for number, rows in enumerate(self._mini_batches(batch.group_N, step, epoch)):
                key = (self.seed, TOKEN_PLAN_STREAM, step, epoch, number)
                rows_taking_part = batch.rows_taking_part(rows)
                mini_batch = self._mini_batch(batch, rows_taking_part, source, key)
                metrics = self._update(batch, behaviour, mini_batch, step)
                for name, value in (metrics | mini_batch.plan_metrics).items():
                    values_by_name[name].append(value)
                source = BehaviourSource.SCORES  # the weights have changed

        # means over the optimizer updates of this batch
        metrics = {name: float(np.mean(numbers)) for name, numbers in values_by_name.items()}
        metrics["updates"] = float(self.updates)
        return UpdateResult(metrics, behaviour)

    def skip(self, step: int, reason: str, groups: Sequence[int]) -> dict[str, float]:
        """Count a rollout batch that cannot be learnt from as one bad update; the weights stay.

        Raises:
            UpdateError: too many updates in a row were bad.
        """
        # the schedule goes on as if the updates had been made
        self.updates += self.settings.mini_batches * self.settings.epochs
        self.bad_in_a_row += 1
        self._stop_when_too_many(step, reason, groups, {})
        return {"skipped": 1.0, "updates": float(self.updates)}

    def _require_scores(self, batch: UpdateBatch, step: int) -> None:
        """Refuse a batch in which a response is unscored that is updated after the weights
        change."""
        unscored = [
            n for n in self.rows_to_score(batch.group_N, step) if batch.behaviour.logps[n] is None
        ]
        if unscored:
            raise ValueError(
                f"responses {unscored} were not scored, and are updated after the weights change"
            )

    def _update(
        self, batch: UpdateBatch, behaviour: Scores, mini_batch: MiniBatch, step: int
    ) -> dict[str, float]:
        """Run one optimizer update; it is skipped and counted if the loss or the gradient is not
        finite."""
        learning_rate = self.settings.learning_rate(self.updates, self.total_updates)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

        # the gradient of the whole mini-batch
        self.policy.train()
        self.optimizer.zero_grad(set_to_none=True)
        metrics, suspect_rows = self._accumulate_gradients(batch, behaviour, mini_batch)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.settings.grad_clip)
        norm = whole(norm)

        # step only if everything is finite
        is_finite = math.isfinite(metrics["loss"]) and bool(torch.isfinite(norm))
        self.updates += 1
        if is_finite:
            self.bad_in_a_row = 0
            self.optimizer.step()
        else:
            self.bad_in_a_row += 1
        self.optimizer.zero_grad(set_to_none=True)

        # a skipped update names the groups to look at
        if not is_finite:
            rows = suspect_rows or mini_batch.rows
            groups = torch.unique(batch.group_N[rows]).tolist()
            reason = "a non-finite loss" if suspect_rows else "a non-finite gradient"
            tensors = batch.tensors(mini_batch.rows, behaviour)
            self._stop_when_too_many(step, reason, groups, tensors)

        metrics["grad_norm"] = float(norm)
        finite_metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        return {**finite_metrics, "lr": learning_rate, "skipped": float(not is_finite)}

    def _accumulate_gradients(
        self, batch: UpdateBatch, behaviour: Scores, mini_batch: MiniBatch
    ) -> tuple[dict[str, float], list[int]]:
        """Add up the gradient of a mini-batch over its micro-batches, on all ranks.

        Responses that were not scored are filled into `behaviour` from this forward.

        Returns:
            The metrics of the mini-batch, and its rows whose loss is not finite, both of all ranks.
        """
        # rows whose scores this forward supplies, to be exchanged afterwards
        own_micro_batches = self._micro_batches(batch.sequences, mini_batch.rows)
        newly_scored: list[int] = []
        for rows in own_micro_batches:
            newly_scored += [n for n in rows if behaviour.logps[n] is None]

        metrics: dict[str, float] = defaultdict(float)
        suspect_rows: list[int] = []
        plan = pad_plan_to_longest_rank(own_micro_batches, self.world)
        for number, rows in enumerate(plan, start=1):
            self._let_ranks_sum_gradients(in_next_backward=number == len(plan))
            if not rows:  # nothing left for this rank
                self._take_part_idly()
                continue
            result = self.micro_update(batch, behaviour, mini_batch, rows)
            self._fill_unscored(batch, behaviour, rows, result)
            suspect_rows += result.bad_rows
            for name, value in result.metrics.items():
                metrics[name] += value
        metrics.setdefault("loss", 0.0)  # of a mini-batch without tokens

        # every rank ends with all scores and metrics, for later epochs, tables and alarms
        behaviour.exchange(newly_scored, self.world)
        return self._sum_over_ranks(dict(metrics), suspect_rows)

    @staticmethod
    def _fill_unscored(
        batch: UpdateBatch, behaviour: Scores, rows: list[int], result: MicroBatchResult
    ) -> None:
        """Take over the scores of a micro-batch that was not scored, wholly or in part."""
        if any(behaviour.logps[n] is None for n in rows):
            lengths = [len(batch.sequences.responses[n]) for n in rows]
            behaviour.fill(rows, result.logps_T, result.entropy_T, lengths)

    def _stop_when_too_many(
        self, step: int, reason: str, groups: Sequence[int], tensors: dict[str, Tensor]
    ) -> None:
        """Raise `UpdateError` once `max_bad_updates` updates in a row were bad."""
        if self.bad_in_a_row >= self.settings.max_bad_updates:
            raise UpdateError(
                f"step {step}: {self.bad_in_a_row} updates in a row were bad, the last by {reason} "
                f"in groups {list(groups)}; lower optimizer.lr or look at the rollouts of this "
                "step",
                groups,
                tensors,
            )

    # --- how a rollout batch is divided

    def _mini_batches(self, group_N: Tensor, step: int, epoch: int) -> list[list[int]]:
        """Rows of each mini-batch of an epoch; a function of (seed, step, epoch)."""
        key = (self.seed, MINI_BATCH_STREAM, step, epoch)
        return mini_batches(group_N, self.settings.mini_batches, key)

    def _mini_batch(
        self,
        batch: UpdateBatch,
        rows: list[int],
        source: BehaviourSource,
        key: tuple[int, ...] = (),
    ) -> MiniBatch:
        """Weigh the tokens of a mini-batch by the normaliser of the loss, and let the signal plan
        them.

        Args:
            batch: the rollout batch.
            rows: the responses of the mini-batch.
            source: where its behaviour log-probabilities come from.
            key: of the random numbers of its token plan.
        """
        # weights over the whole mini-batch
        lengths = batch.sequences.lengths_N[rows]
        weights_N = torch.zeros(len(batch.sequences), dtype=torch.float32)
        weights_N[rows] = response_weights(
            self.loss.normalizer, lengths, batch.group_N[rows], self.max_tokens
        )
        token_count = float(lengths.sum())

        # every rank holds all tokens, so all make the same plan
        plan = None
        if batch.token_planner is not None and token_count > 0:
            view = token_view(
                rows,
                batch.advantages_N,
                batch.token_bonus,
                batch.behaviour,
                batch.group_N,
                key,
            )
            plan = plan_tokens(batch.token_planner, view, rows, weights_N[rows])
        return MiniBatch(rows, weights_N, 1.0 / max(token_count, 1.0), source, plan)

    def _micro_batches(self, sequences: Sequences, rows: Sequence[int]) -> list[list[int]]:
        """This rank's micro-batches of a mini-batch.

        Responses without tokens are in none: a mini-batch of nothing else gives no gradient and no
        update.
        """
        rows_with_tokens = [n for n in rows if sequences.responses[n]]
        sharing = self.policy.shares_prefixes
        own_rows = rows_of_this_rank(sequences, rows_with_tokens, self.world, sharing)
        return plan_batches(sequences, own_rows, self.settings.micro_batch_tokens, sharing)

    # --- with other ranks

    def _let_ranks_sum_gradients(self, in_next_backward: bool) -> None:
        """Let the ranks sum their gradients in the next backward, or put that off to a later one;
        see `ShardSettings.accumulate`."""
        if self.policy.sharding is not None and self.policy.sharding.accumulate == "full":
            for module in sharded_modules(self.policy):
                module.set_requires_gradient_sync(in_next_backward)

    def _take_part_idly(self) -> None:
        """Join the gathers and sums of the other ranks' forward and backward without adding
        anything."""
        if self.world.size > 1:
            output = self.policy(idle_batch(self.policy.device), self.temperature)
            (0.0 * output.logps_T.sum()).backward()

    def _sum_over_ranks(
        self, metrics: dict[str, float], suspect_rows: list[int]
    ) -> tuple[dict[str, float], list[int]]:
        """Sum the ranks' shares of the mini-batch's means, and collect the suspect rows of all."""
        total: dict[str, float] = defaultdict(float)
        suspects_of_all: list[int] = []
        for metrics_of_rank, suspects_of_rank in self.world.gather((metrics, suspect_rows)):
            suspects_of_all += suspects_of_rank
            for name, value in metrics_of_rank.items():
                total[name] += value
        return dict(total), suspects_of_all

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """State that a checkpoint keeps: optimizer moments and counters."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "bad_in_a_row": self.bad_in_a_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state, sharded or not."""
        self.optimizer.load_state_dict(state["optimizer"])
        # moments of a run that was not sharded are divided like their parameters
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                moments[name] = divided_like(value, parameter)
        self.updates = state["updates"]
        self.bad_in_a_row = state["bad_in_a_row"]

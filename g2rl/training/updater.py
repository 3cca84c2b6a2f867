"""The optimizer step: mini-batches of whole groups, micro-batches by length, one global normaliser."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from g2rl.formulas.losses import PolicyLoss, response_weights
from g2rl.policy.batching import Sequences, mini_batches, padded_tokens, plan_micro_batches
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import idle_batch, in_step, share
from g2rl.policy.sharding import divided_like, sharded_modules, whole
from g2rl.training.bad_numbers import BadNumbersError
from g2rl.training.micro_batch_update import MicroUpdate, UpdateBatch
from g2rl.training.optimizer import OptimizerSettings, parameter_groups
from g2rl.world import World


class UpdateError(BadNumbersError):
    """Training numbers have gone bad for too many updates in a row."""


class Updater:
    """Owns the optimizer and applies the policy loss to a rollout batch.

    Args:
        policy: trained in place.
        loss: the policy loss.
        settings: optimizer and batching.
        temperature: sampling temperature, at which log-probabilities are taken.
        max_tokens: T_max of the constant normaliser.
        total_updates: length of the schedule.
        seed: of the order in which groups are split into mini-batches.
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
        self.world = world or World()
        self.policy, self.loss, self.settings = policy, loss, settings
        self.temperature, self.max_tokens, self.seed = temperature, max_tokens, seed
        self.total_updates = total_updates
        self.updates = 0
        self.bad_in_a_row = 0
        groups = parameter_groups(policy, settings.weight_decay)
        self.micro = MicroUpdate(policy, loss, temperature)
        self.optimizer = torch.optim.AdamW(groups, settings.lr, settings.betas, settings.eps)

    def step(self, batch: UpdateBatch, step: int) -> dict[str, float]:
        """All optimizer updates on one rollout batch; metrics are means over its updates."""
        torch.manual_seed(self.seed * 1_000_003 + step)  # dropout, in a model that has it
        late = [
            n for n in self.rows_to_score(batch.group_N, step) if batch.behaviour.logps[n] is None
        ]
        if late:
            raise ValueError(
                f"responses {late} were not scored, and are updated after the weights change"
            )
        totals: dict[str, list[float]] = defaultdict(list)
        changed = (
            self.policy.has_dropout or not batch.on_policy
        )  # a forward is not the behaviour policy's
        for epoch in range(self.settings.epochs):
            for rows in self._mini_batches(batch.group_N, step, epoch):
                for name, value in self._update(batch, rows, step, fresh=not changed).items():
                    totals[name].append(value)
                changed = True
        metrics = {name: float(np.mean(values)) for name, values in totals.items()}
        metrics["updates"] = float(self.updates)
        return metrics

    def skip(self, step: int, what: str, groups: Sequence[int]) -> dict[str, float]:
        """Count a rollout batch that cannot be learnt from like one bad update; the weights stay."""
        self.updates += self.settings.mini_batches * self.settings.epochs
        self.bad_in_a_row += 1
        self._stop_when_too_many(step, what, groups, {})
        return {"skipped": 1.0, "updates": float(self.updates)}

    def _stop_when_too_many(
        self, step: int, what: str, groups: Sequence[int], tensors: dict[str, Tensor]
    ) -> None:
        if self.bad_in_a_row >= self.settings.max_bad_updates:
            raise UpdateError(
                f"step {step}: {self.bad_in_a_row} updates in a row were bad, the last by {what} in "
                f"groups {list(groups)}; lower optimizer.lr or look at the rollouts of this step",
                groups,
                tensors,
            )

    def rows_to_score(self, group_N: Tensor, step: int) -> list[int]:
        """Responses whose behaviour log-probabilities must be known before the update of this step.

        Those of the first mini-batch need not be: its forward precedes every change of the weights, and its
        own log-probabilities are used also where there are others, so that training does not depend on
        what an observer had scored (but for rounding, where the head is fused). With dropout all are
        needed: the update's forward is then another.
        """
        first = set() if self.policy.has_dropout else set(self._mini_batches(group_N, step, 0)[0])
        return [n for n in range(group_N.numel()) if n not in first]

    def forwards_to_keep(self, sequences: Sequences, group_N: Tensor, step: int) -> list[list[int]]:
        """Micro-batches of the first mini-batch that scoring should forward on the update's behalf.

        Where a signal looks at features or entropies, they are scored before the update, with the same
        weights: one forward serves both if what its backward needs may stay. It may when the whole
        mini-batch fits the token budget of one micro-batch, and is one where forwards hold copies of weights:
        then it is what any update needs. Else none is kept, nor by ranks, nor of a sharded policy.
        """
        if self.policy.has_dropout or self.world.size > 1 or self.policy.sharding is not None:
            return []
        plan = self._micro_batches(sequences, self._mini_batches(group_N, step, 0)[0])
        fits = padded_tokens(sequences, plan) <= self.settings.micro_batch_tokens
        return plan if fits and (len(plan) == 1 or not self.policy.copies_weights) else []

    def _mini_batches(self, group_N: Tensor, step: int, epoch: int) -> list[list[int]]:
        return mini_batches(group_N, self.settings.mini_batches, (self.seed, 0x5417, step, epoch))

    def _micro_batches(self, sequences: Sequences, rows: Sequence[int]) -> list[list[int]]:
        """Rows without tokens are in none: a mini-batch of nothing else gives no gradient, and no update."""
        own = share(sequences, [n for n in rows if sequences.responses[n]], self.world)
        return plan_micro_batches(sequences, own, self.settings.micro_batch_tokens)

    def _update(
        self, batch: UpdateBatch, rows: list[int], step: int, fresh: bool = False
    ) -> dict[str, float]:
        """One optimizer update; skipped and counted when the loss or the gradient is not finite."""
        rate = self.settings.learning_rate(self.updates, self.total_updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.policy.train()
        self.optimizer.zero_grad(set_to_none=True)
        metrics, suspects = self._backward(batch, rows, fresh)
        norm = whole(
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.settings.grad_clip)
        )
        good = math.isfinite(metrics["loss"]) and bool(torch.isfinite(norm))
        self.updates += 1
        self.bad_in_a_row = 0 if good else self.bad_in_a_row + 1
        if good:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not good:
            groups = torch.unique(batch.group_N[suspects or rows]).tolist()
            what = f"a non-finite {'loss' if suspects else 'gradient'}"
            self._stop_when_too_many(step, what, groups, batch.tensors(rows))
        metrics["grad_norm"] = float(norm)
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        return {**finite, "lr": rate, "skipped": float(not good)}

    def _backward(
        self, batch: UpdateBatch, rows: list[int], fresh: bool = False
    ) -> tuple[dict[str, float], list[int]]:
        """Accumulate the gradient of the mini-batch over its micro-batches.

        Returns its metrics, and the rows whose loss is not finite, both of all ranks.
        """
        lengths_N = batch.sequences.lengths_N[rows]
        weights = dict(
            zip(rows, self._weights(lengths_N, batch.group_N[rows]).tolist(), strict=True)
        )
        token_share = 1.0 / max(float(lengths_N.sum()), 1.0)
        metrics: dict[str, float] = defaultdict(float)
        suspects: list[int] = []
        own = self._micro_batches(batch.sequences, rows)
        late = [n for chosen in own for n in chosen if batch.behaviour.logps[n] is None]
        plan = in_step(own, self.world)
        for number, chosen in enumerate(plan, start=1):
            self._sum_gradients_now(number == len(plan))
            if not chosen:  # nothing left for this rank
                self._idle()
                continue
            found, bad = self.micro(batch, chosen, weights, token_share, fresh)
            suspects += bad
            for name, value in found.items():
                metrics[name] += value
        metrics.setdefault("loss", 0.0)
        batch.behaviour.exchange(late, self.world)
        return self._summed(dict(metrics), suspects)

    def _sum_gradients_now(self, last: bool) -> None:
        """Whether the next backward sums its gradients over the ranks; see `ShardSettings.accumulate`."""
        if self.policy.sharding is not None and self.policy.sharding.accumulate == "full":
            for module in sharded_modules(self.policy):
                module.set_requires_gradient_sync(last)

    def _idle(self) -> None:
        """Take part in the gathers and sums of a forward and backward of the other ranks, adding nothing."""
        if self.world.size > 1:
            output = self.policy(idle_batch(self.policy.device), self.temperature)
            (0.0 * output.logps_T.sum()).backward()

    def _summed(
        self, metrics: dict[str, float], suspects: list[int]
    ) -> tuple[dict[str, float], list[int]]:
        """Sums of the ranks' shares of the mini-batch's means, and the suspects of all."""
        found: dict[str, float] = defaultdict(float)
        everyone: list[int] = []
        for theirs, rows in self.world.gather((metrics, suspects)):
            everyone += rows
            for name, value in theirs.items():
                found[name] += value
        return dict(found), everyone

    def _weights(self, lengths_N: Tensor, group_N: Tensor) -> Tensor:
        return response_weights(self.loss.normalizer, lengths_N, group_N, self.max_tokens)

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "bad_in_a_row": self.bad_in_a_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():  # of a run that was not sharded
            for name, value in moments.items():
                moments[name] = divided_like(value, parameter)
        self.updates, self.bad_in_a_row = state["updates"], state["bad_in_a_row"]

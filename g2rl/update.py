"""The optimizer step: mini-batches of whole groups, micro-batches by length, one global normaliser."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from g2rl.batching import Sequences, make_micro_batch, plan_micro_batches
from g2rl.failure import BadNumbersError
from g2rl.losses import LossInputs, PolicyLoss, response_weights
from g2rl.policy import Policy

SCHEDULES = ("constant", "linear", "cosine")


class UpdateError(BadNumbersError):
    """Training numbers have gone bad for too many updates in a row."""


@dataclass(slots=True, frozen=True)
class OptimizerSettings:
    """AdamW and its schedule; conf/algorithm/optimizer.

    Args:
        lr: peak learning rate.
        warmup_updates: linear warm-up, in optimizer updates.
        schedule: after warm-up: constant, or linear / cosine decay to 0 at the last update.
        grad_clip: largest gradient norm.
        mini_batches: optimizer updates per pass over a rollout batch, each on whole groups.
        epochs: passes over a rollout batch.
        micro_batch_tokens: padded tokens of one forward and backward.
        max_bad_updates: updates in a row with a non-finite loss or gradient before the run stops.
    """

    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_updates: int = 0
    schedule: str = "constant"
    grad_clip: float = 1.0
    mini_batches: int = 2
    epochs: int = 1
    micro_batch_tokens: int = 16_384
    max_bad_updates: int = 3

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"optimizer.schedule must be one of {SCHEDULES}, got {self.schedule!r}")
        if self.lr < 0 or self.grad_clip <= 0 or self.warmup_updates < 0:
            raise ValueError("optimizer: need lr >= 0, grad_clip > 0 and warmup_updates >= 0")
        for name in ("mini_batches", "epochs", "micro_batch_tokens", "max_bad_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} must be >= 1, got {getattr(self, name)}")

    def learning_rate(self, update: int, total: int) -> float:
        """Learning rate of update number `update` (from 0) out of `total`."""
        warm = min((update + 1) / self.warmup_updates, 1.0) if self.warmup_updates else 1.0
        if self.schedule == "constant":
            return self.lr * warm
        progress = min(max(update - self.warmup_updates, 0) / max(total - self.warmup_updates, 1), 1.0)
        decay = 1 - progress if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * warm * decay


@dataclass(slots=True)
class UpdateBatch:
    """One rollout batch as the update sees it."""

    sequences: Sequences
    group_N: Tensor
    """Prompt number of each response."""
    advantages_N: Tensor
    old_logps: list[Tensor]
    ref_logps: list[Tensor] | None = None
    token_bonus: list[Tensor] | None = None
    """Added to the advantage of each token, N tensors (T_n,)."""
    entropy_coef: float = 0.0

    def tensors(self, rows: list[int]) -> dict[str, Tensor]:
        """What the update of some rows is computed from, tokens of all responses in one row."""
        found = {
            "update_rows": torch.tensor(rows), "response_lengths_N": self.sequences.lengths_N,
            "advantages_N": self.advantages_N,
        }  # fmt: skip
        tokens = {"old_logps": self.old_logps, "ref_logps": self.ref_logps, "token_bonus": self.token_bonus}
        return found | {f"{name}_T": torch.cat(value) for name, value in tokens.items() if value is not None}


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
    ) -> None:
        self.policy, self.loss, self.settings = policy, loss, settings
        self.temperature, self.max_tokens, self.seed = temperature, max_tokens, seed
        self.total_updates = total_updates
        self.updates = 0
        self.bad_in_a_row = 0
        self.optimizer = torch.optim.AdamW(
            parameter_groups(policy, settings.weight_decay),
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
        )

    def step(self, batch: UpdateBatch, step: int) -> dict[str, float]:
        """All optimizer updates on one rollout batch; metrics are means over its updates."""
        torch.manual_seed(self.seed * 1_000_003 + step)  # dropout, in a model that has it
        totals: dict[str, list[float]] = defaultdict(list)
        first: dict[str, float] = {}
        for epoch in range(self.settings.epochs):
            for rows in self._mini_batches(batch, step, epoch):
                found = self._update(batch, rows, step)
                first = first or found
                for name, value in found.items():
                    totals[name].append(value)
        metrics = {name: float(np.mean(values)) for name, values in totals.items()}
        metrics["updates"] = float(self.updates)
        if "ratio" in first:  # by the weights that scored, so 1 up to rounding
            metrics["first_ratio"] = first["ratio"]
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

    def _mini_batches(self, batch: UpdateBatch, step: int, epoch: int) -> list[list[int]]:
        """Rows of each mini-batch: whole groups, in an order keyed by (seed, step, epoch)."""
        labels = torch.unique(batch.group_N).tolist()
        parts = min(self.settings.mini_batches, len(labels))
        order = np.random.default_rng(np.random.SeedSequence((self.seed, 0x5417, step, epoch))).permutation(
            labels
        )
        if parts == 1:
            order = np.array(labels)
        groups = [set(part.tolist()) for part in np.array_split(order, parts)]
        owner = batch.group_N.tolist()
        return [[n for n, label in enumerate(owner) if label in chosen] for chosen in groups]

    def _update(self, batch: UpdateBatch, rows: list[int], step: int) -> dict[str, float]:
        """One optimizer update; skipped and counted when the loss or the gradient is not finite."""
        rate = self.settings.learning_rate(self.updates, self.total_updates)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.policy.train()
        self.optimizer.zero_grad(set_to_none=True)
        metrics, suspects = self._backward(batch, rows)
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.settings.grad_clip)
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

    def _backward(self, batch: UpdateBatch, rows: list[int]) -> tuple[dict[str, float], list[int]]:
        """Accumulate the gradient of the mini-batch over its micro-batches.

        Returns its metrics, and the rows of micro-batches whose loss is not finite.
        """
        lengths_N = batch.sequences.lengths_N[rows]
        weights = dict(zip(rows, self._weights(lengths_N, batch.group_N[rows]).tolist(), strict=True))
        token_share = 1.0 / max(float(lengths_N.sum()), 1.0)
        metrics: dict[str, float] = defaultdict(float)
        suspects: list[int] = []
        for chosen in plan_micro_batches(batch.sequences, rows, self.settings.micro_batch_tokens):
            inputs = self._loss_inputs(batch, chosen, weights, token_share)
            if inputs is None:  # every response of this micro-batch is empty
                continue
            loss, parts = self.loss(inputs, batch.entropy_coef)
            loss.backward()
            metrics["loss"] += loss.item()
            if not math.isfinite(loss.item()):
                suspects += chosen
            for name, value in parts.items():
                metrics[name] += value.item()
        metrics.setdefault("loss", 0.0)
        return dict(metrics), suspects

    def _weights(self, lengths_N: Tensor, group_N: Tensor) -> Tensor:
        return response_weights(self.loss.normalizer, lengths_N, group_N, self.max_tokens)

    def _loss_inputs(
        self, batch: UpdateBatch, rows: list[int], weights: dict[int, float], token_share: float
    ) -> LossInputs | None:
        """Forward one micro-batch and gather what the loss needs, token by token."""
        micro = make_micro_batch(batch.sequences, rows, self.policy.device)
        if micro.targets_T.numel() == 0:
            return None
        output = self.policy(micro, self.temperature)
        device, segments = self.policy.device, micro.segments_T

        def gather(tokens: list[Tensor]) -> Tensor:
            return torch.cat([tokens[n] for n in rows]).to(device)

        def spread(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[segments]

        advantages_T = spread([float(batch.advantages_N[n]) for n in rows])
        if batch.token_bonus is not None:
            advantages_T = advantages_T + gather(batch.token_bonus)
        return LossInputs(
            logps_T=output.logps_T,
            old_logps_T=gather(batch.old_logps),
            advantages_T=advantages_T,
            weights_T=spread([weights[n] for n in rows]),
            segments_T=segments,
            rows=len(rows),
            entropy_T=output.entropy_T,
            entropy_weights_T=torch.full_like(advantages_T, token_share),
            ref_logps_T=gather(batch.ref_logps) if batch.ref_logps is not None else None,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "bad_in_a_row": self.bad_in_a_row,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates, self.bad_in_a_row = state["updates"], state["bad_in_a_row"]


def parameter_groups(policy: Policy, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, norms and biases do not."""
    trained = [p for p in policy.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2]
    plain = [p for p in trained if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]

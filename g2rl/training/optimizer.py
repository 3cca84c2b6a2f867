"""Settings of the optimizer and its schedule, and which parameters decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from g2rl.policy.weights import stuck_share

SCHEDULES = ("constant", "linear", "cosine")


@dataclass(slots=True, frozen=True)
class OptimizerSettings:
    """AdamW, its schedule and how a rollout batch is divided: node `optimizer` of conf/train.yaml.

    Args:
        lr: peak learning rate.
        betas, eps, weight_decay: of AdamW.
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
        # an unknown name would pass for the cosine below
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"optimizer.schedule must be one of {SCHEDULES}, got {self.schedule!r}"
            )
        for name in ("lr", "eps", "weight_decay", "warmup_updates"):
            if getattr(self, name) < 0:
                raise ValueError(f"optimizer.{name} must be >= 0, got {getattr(self, name)}")
        if self.grad_clip <= 0:
            raise ValueError(f"optimizer.grad_clip must be > 0, got {self.grad_clip}")
        for name in ("mini_batches", "epochs", "micro_batch_tokens", "max_bad_updates"):
            if getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} must be >= 1, got {getattr(self, name)}")

    def learning_rate(self, update: int, total: int) -> float:
        """Learning rate of update number `update` (counted from 0) out of `total`."""
        rate = self.lr

        # the warm-up climbs in a straight line
        if self.warmup_updates:
            rate *= min((update + 1) / self.warmup_updates, 1.0)
        if self.schedule == "constant":
            return rate

        # share of the way from the end of the warm-up to the last update
        done = max(update - self.warmup_updates, 0)
        progress = min(done / max(total - self.warmup_updates, 1), 1.0)
        if self.schedule == "linear":
            return rate * (1 - progress)
        return rate * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(policy: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for the optimizer: matrices decay, norms and biases do not; frozen parameters are left
    out."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in policy.parameters():
        if parameter.requires_grad:
            (matrices if parameter.ndim >= 2 else others).append(parameter)

    groups: list[dict[str, Any]] = []
    if matrices:
        groups.append({"params": matrices, "weight_decay": weight_decay})
    if others:
        groups.append({"params": others, "weight_decay": 0.0})
    return groups


MOST_STUCK = 0.5
"""Share of the weights that may be too coarse to be moved by one update."""


def refuse_stuck_weights(policy: nn.Module, learning_rate: float) -> None:
    """Refuse weights that are stored so coarsely that updates would be rounded away.

    Args:
        policy: what is trained.
        learning_rate: the peak of the schedule.

    Raises:
        ValueError: most weights would not move; the message says what to set.
    """
    # a run at learning rate 0 is a trial of something else
    if learning_rate == 0:
        return

    # under LoRA the base is frozen, and adapters are float32
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    share = stuck_share(trained, learning_rate)
    if share > MOST_STUCK:
        raise ValueError(
            f"model.dtype=bfloat16 with optimizer.lr={learning_rate:g}: {share:.0%} of the weights "
            "would not move, because an update is less than half the distance to the next bfloat16 "
            "number. Set model.dtype=float32 and model.compute_dtype=bfloat16 (float32 weights, "
            "bfloat16 computation), or train adapters (model.lora.r=16)"
        )

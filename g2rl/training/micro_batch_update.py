"""One micro-batch of the update: its forward, loss and backward; and the rollout batch that it is part of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from g2rl.formulas.losses import LossInputs, PolicyLoss
from g2rl.policy.batching import MicroBatch, Sequences, make_micro_batch
from g2rl.policy.lm_head import HeadOutput, Objective
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import Scores, known


@dataclass(slots=True)
class UpdateBatch:
    """One rollout batch as the update sees it."""

    sequences: Sequences
    group_N: Tensor
    """Prompt number of each response."""
    advantages_N: Tensor
    behaviour: Scores
    """Of the policy that sampled. Responses of the first mini-batch may be unscored: the weights are still
    the behaviour policy's when it is forwarded, and its own log-probabilities are filled in."""
    on_policy: bool = True
    """Whether the weights are still those that sampled; otherwise `behaviour` is taken as it is."""
    ref_logps: list[Tensor] | None = None
    sampler_logps: list[Tensor] | None = None
    """Of an engine with weights of its own, N tensors (T_n,)."""
    token_bonus: list[Tensor] | None = None
    """Added to the advantage of each token, N tensors (T_n,)."""
    entropy_coef: float = 0.0

    def tensors(self, rows: list[int]) -> dict[str, Tensor]:
        """What the update of some rows is computed from, tokens of all responses in one row."""
        found = {
            "update_rows": torch.tensor(rows),
            "response_lengths_N": self.sequences.lengths_N,
            "advantages_N": self.advantages_N,
        }
        tokens = {
            "old_logps": known(self.behaviour.logps),
            "ref_logps": self.ref_logps,
            "token_bonus": self.token_bonus,
        }
        return found | {
            f"{name}_T": torch.cat(value) for name, value in tokens.items() if value is not None
        }


@dataclass(slots=True, frozen=True)
class Given:
    """What the loss of a micro-batch needs besides the policy's forward."""

    tokens: dict[str, Tensor]
    """Fields of `LossInputs`, each (T,); without `old_logps_T` they are those of the forward itself."""
    rows: int

    def inputs(self, tile: slice, logps: Tensor, entropies: Tensor) -> LossInputs:
        """Of some of the tokens, whose log-probabilities and entropies are given."""
        tokens = {name: value_T[tile] for name, value_T in self.tokens.items()}
        tokens.setdefault("old_logps_T", logps.detach())
        return LossInputs(logps_T=logps, entropy_T=entropies, rows=self.rows, **tokens)


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
        self,
        batch: UpdateBatch,
        rows: list[int],
        weights: dict[int, float],
        token_share: float,
        fresh: bool,
    ) -> tuple[dict[str, float], list[int]]:
        """Return this micro-batch's share of the metrics, and those of its rows whose loss is not finite.

        Args:
            batch: the rollout batch.
            rows: its responses that make up the micro-batch.
            weights: w_t of the tokens of each row, given by the normaliser of the whole mini-batch.
            token_share: 1 / (tokens of the mini-batch).
            fresh: the weights are still those that sampled, and this forward is the behaviour policy's.
        """
        # scored in another forward, or not at all
        apart = tuple(rows) not in batch.behaviour.forwards
        scored = [batch.behaviour.logps[n] for n in rows]
        micro = make_micro_batch(batch.sequences, rows, self.policy.device)
        given = self._given(batch, micro, weights, token_share, fresh)

        def loss_of(tile: slice, logps: Tensor, entropies: Tensor) -> Tensor:
            return self.loss(given.inputs(tile, logps, entropies), batch.entropy_coef)[0]

        output = self._forward(batch, micro, fresh, loss_of)
        inputs = given.inputs(slice(None), output.logps_T, output.entropy_T)
        loss, parts = self.loss(inputs, batch.entropy_coef)
        (loss if output.loss is None else output.loss).backward()
        metrics = {name: value.item() for name, value in parts.items()} | {"loss": loss.item()}
        if fresh and apart and None not in scored:  # by the same weights, so 1 up to rounding
            gap_T = inputs.old_logps_T - torch.cat(known(scored)).to(inputs.old_logps_T.device)
            metrics["first_ratio"] = token_share * gap_T.exp().sum().item()
        bad = [] if math.isfinite(metrics["loss"]) else [rows[i] for i in inputs.bad_rows()]
        return metrics, bad

    def _forward(
        self, batch: UpdateBatch, micro: MicroBatch, fresh: bool, objective: Objective
    ) -> HeadOutput:
        """The policy's forward, or the one kept from scoring; fills in log-probabilities not known before."""
        rows = micro.rows
        output = batch.behaviour.forwards.pop(tuple(rows), None) if fresh else None
        if output is None:
            whole = not self.loss.by_token(batch.sampler_logps)
            output = self.policy(micro, self.temperature, objective=None if whole else objective)
        if fresh and any(batch.behaviour.logps[n] is None for n in rows):
            sizes = [len(batch.sequences.responses[n]) for n in rows]
            batch.behaviour.fill(rows, output.logps_T.detach(), output.entropy_T.detach(), sizes)
        return output

    def _given(
        self,
        batch: UpdateBatch,
        micro: MicroBatch,
        weights: dict[int, float],
        token_share: float,
        fresh: bool,
    ) -> Given:
        """Gather what the loss needs besides the forward, token by token."""
        rows, device = micro.rows, self.policy.device

        def gather(tokens: Sequence[Tensor | None] | None) -> Tensor | None:
            return (
                None if tokens is None else torch.cat(known([tokens[n] for n in rows])).to(device)
            )

        def spread(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device)[micro.segments_T]

        advantages_T = spread([float(batch.advantages_N[n]) for n in rows])
        bonus_T = gather(batch.token_bonus)
        tokens = {
            "old_logps_T": None if fresh else gather(batch.behaviour.logps),
            "advantages_T": advantages_T if bonus_T is None else advantages_T + bonus_T,
            "weights_T": spread([weights[n] for n in rows]),
            "segments_T": micro.segments_T,
            "entropy_weights_T": torch.full_like(advantages_T, token_share),
            "ref_logps_T": gather(batch.ref_logps),
            "sampler_logps_T": gather(batch.sampler_logps),
        }
        return Given(
            {name: value for name, value in tokens.items() if value is not None}, len(rows)
        )

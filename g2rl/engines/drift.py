"""Check that an engine samples from the policy that is scored and trained.

A weight push that is incomplete, or a prefix cache that was computed with earlier weights, changes
no shape and raises no error: the engine just samples from another policy. So does an architecture
whose numbers depend on padding or on the other rows of a batch, although engine and policy share
their weights. So log-probabilities that an engine sampled from are compared with those of scoring.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from g2rl.policy.batching import Sequences, make_micro_batch
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import idle_batch
from g2rl.policy.sharding import reshard
from g2rl.types import Completion, SamplingParams

STATISTIC = {"float32": "largest", "bfloat16": "mean"}
"""Which field of `Drift` is limited, by the dtype of the comparison."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}
"""The limits in nats. In bfloat16 rounding alone moves single tokens by tenths of a nat (measured:
docs/engines.md), so there the check finds wrong weights, but not weights that are one small step
behind."""
# a temperature other than 1 shows an engine that forgets to apply it
PROBE = SamplingParams(temperature=0.7, max_tokens=16)
PROMPTS, SAMPLES = 2, 2
SEED = 0xD21F7


class DriftError(RuntimeError):
    """The log-probabilities that an engine reports are not those of the policy."""


@dataclass(slots=True, frozen=True)
class Drift:
    """Absolute difference between two log-probabilities of each sampled token, in nats.

    One is reported by the engine that drew the token, the other is computed with the policy.
    """

    largest: float
    mean: float
    tokens: int
    """Number of tokens that were compared."""

    def share_of(self, tolerance: float, dtype: str) -> float:
        """The limited statistic as a share of its tolerance; above 1 the run stops.

        Args:
            tolerance: in nats, see `TOLERANCE`.
            dtype: float32 or bfloat16, in which was compared.
        """
        # bfloat16 limits the mean: a single infinite difference is refused whatever the mean is
        if not math.isfinite(self.largest):
            return math.inf
        return float(getattr(self, STATISTIC[dtype])) / tolerance

    def __str__(self) -> str:
        return f"up to {self.largest:.3g} nats (mean {self.mean:.3g}, {self.tokens} tokens)"


def probe_prompts(vocabulary: int, length: int) -> list[list[int]]:
    """Pseudo-random prompts, the same at every check, so that stale cached prefixes would be used.

    Args:
        vocabulary: token ids are drawn below this number.
        length: tokens of each prompt.
    """
    generator = np.random.Generator(np.random.Philox(SEED))
    return generator.integers(0, vocabulary, (PROMPTS, length)).tolist()


def measure_drift(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    groups: Sequence[Sequence[Completion]],
    temperature: float,
) -> Drift:
    """Score the engine's responses under the policy and compare token by token.

    All of them are scored in one micro-batch, so that ranks which share a sharded policy forward
    equally often.

    Args:
        policy: with the weights that the engine should have.
        prompts: token ids of each prompt.
        groups: a few completions of each prompt, with `logps` of the untruncated distribution.
        temperature: of that distribution.
    """
    # one row a response
    prompt_rows: list[list[int]] = []
    completions: list[Completion] = []
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            prompt_rows.append(list(prompt))
            completions.append(completion)
    sequences = Sequences(prompt_rows, [completion.token_ids for completion in completions])

    # the policy's log-probabilities, in evaluation mode
    policy_logps_T = _scored_at_once(policy, sequences, temperature)

    # the engine's, in the same order
    engine_logps: list[float] = []
    for completion in completions:
        assert completion.logps is not None
        engine_logps += completion.logps
    engine_logps_T = torch.tensor(engine_logps, dtype=torch.float64)

    # float64 adds no rounding of its own
    gap_T = (engine_logps_T - policy_logps_T.double().cpu()).abs()
    if not gap_T.numel():
        return Drift(0.0, 0.0, 0)
    return Drift(float(gap_T.max()), float(gap_T.mean()), gap_T.numel())


@torch.no_grad()
def _scored_at_once(policy: Policy, sequences: Sequences, temperature: float) -> Tensor:
    """Log-probabilities of all response tokens by one forward of the policy, (T,)."""
    # noise of training mode would be taken for drift
    was_training = policy.training
    policy.eval()

    # without sequences the forward is made nevertheless, for the other ranks
    rows = list(range(len(sequences)))
    batch = make_micro_batch(sequences, rows, policy.device) if rows else idle_batch(policy.device)
    logps_T = policy(batch, temperature).logps_T
    reshard(policy)
    policy.train(was_training)
    return logps_T if rows else logps_T[:0]


def refuse_drift(drift: Drift, tolerance: float, dtype: str, engine: str, push: int) -> None:
    """Stop the run if the drift is over the tolerance, or is not a number.

    Args:
        drift: what was measured.
        tolerance: limit in nats, see `STATISTIC` and `TOLERANCE`.
        dtype: float32 or bfloat16, the coarser of the engine's and the policy's.
        engine: its name, for the message.
        push: number of the weight push, for the message.

    Raises:
        DriftError: naming the difference, the tolerance and what to do.
    """
    # `not <=` also refuses what is not a number
    if drift.share_of(tolerance, dtype) <= 1:
        return
    raise DriftError(
        f"{engine}: after weight push {push} its log-probs of probe responses differ from the "
        f"trainer's by {drift}, over the {dtype} tolerance of {tolerance:g} ({STATISTIC[dtype]}): "
        "it does not sample from the policy. Its weights or its prefix cache are stale, or it "
        "computes this architecture differently. engine=transformers samples with the policy "
        "itself; "
        "engine.drift_tolerance moves the limit; see docs/engines.md"
    )


def drift_metrics(drift: Drift | None, tolerance: float, dtype: str) -> dict[str, float]:
    """Metrics of a comparison, `drift` being the share of the tolerance; none without one.

    Args:
        drift: what was measured, if anything.
        tolerance: in nats, see `TOLERANCE`.
        dtype: float32 or bfloat16, in which was compared.
    """
    # a sampling that was not compared says nothing, not 0
    if drift is None:
        return {}
    return {
        "drift": drift.share_of(tolerance, dtype),
        "drift_largest": drift.largest,
        "drift_mean": drift.mean,
    }

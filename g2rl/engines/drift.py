"""Does an engine with weights of its own sample from the policy? Log-probs of a few responses tell.

A weight push that is incomplete, or a cache computed with earlier weights, changes no shape and raises no
error: the samples are simply those of another policy. The check costs a few short responses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from g2rl.policy.batching import Sequences
from g2rl.policy.policy import Policy
from g2rl.policy.scoring import ScoreRequest, require_scored, score
from g2rl.types import Completion, SamplingParams

STATISTIC = {"float32": "largest", "bfloat16": "mean"}
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}
"""Limits in nats, of the largest difference of a token in float32 and of the mean difference in
bfloat16. There rounding alone moves single tokens by tenths (measured: docs/engines.md), so that
the check finds wrong weights, not weights that are one small step behind."""
# the temperature is not 1, so that a forgotten one shows
PROBE = SamplingParams(temperature=0.7, max_tokens=16)
PROMPTS, SAMPLES = 2, 2
SEED = 0xD21F7


class DriftError(RuntimeError):
    """An engine's log-probs are not those of the policy."""


@dataclass(slots=True, frozen=True)
class Drift:
    """Difference between the engine's log-probs of its own samples and the policy's, in nats."""

    largest: float
    mean: float
    tokens: int

    def __str__(self) -> str:
        return f"up to {self.largest:.3g} nats (mean {self.mean:.3g}, {self.tokens} tokens)"


def probe_prompts(vocabulary: int, length: int) -> list[list[int]]:
    """The same pseudo-random prompts every time, so that a stale prefix cache is met."""
    generator = np.random.Generator(np.random.Philox(SEED))
    return generator.integers(0, vocabulary, (PROMPTS, length)).tolist()


def measure(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    groups: Sequence[Sequence[Completion]],
    temperature: float,
) -> Drift:
    """Score the engine's responses under the policy and compare token by token.

    Args:
        groups: of each prompt, with `logps` at `temperature` and without truncation.
    """
    # score every response under the policy
    rows = [(list(prompt), c) for prompt, group in zip(prompts, groups, strict=True) for c in group]
    sequences = Sequences([prompt for prompt, _ in rows], [c.token_ids for _, c in rows])
    budget = 4 * max(sequences.total_length(n) for n in range(len(sequences)))
    request = ScoreRequest(temperature=temperature, token_budget=budget)
    scores = score(policy, sequences, request)
    policy_logps_T = torch.cat(require_scored(scores.logps))
    engine_logps_T = torch.cat([torch.tensor(c.logps, dtype=torch.float64) for _, c in rows])
    gap_T = (engine_logps_T - policy_logps_T.double()).abs()
    return Drift(float(gap_T.max()), float(gap_T.mean()), gap_T.numel())


def refuse(drift: Drift, tolerance: float, dtype: str, engine: str, push: int) -> None:
    """Stop when the drift is over the tolerance, or not a number.

    Raises:
        DriftError: naming difference, tolerance and what to do.
    """
    # within the tolerance
    statistic = STATISTIC[dtype]
    if getattr(drift, statistic) <= tolerance and math.isfinite(drift.largest):
        return
    raise DriftError(
        f"{engine}: after weight push {push} its log-probs of probe responses differ from the trainer's by "
        f"{drift}, over the {dtype} tolerance of {tolerance:g} ({statistic}): it does not sample from the "
        "policy. Its weights or its prefix cache are stale, or it computes this architecture differently. "
        "engine=transformers samples with the policy itself; engine.drift_tolerance moves the limit; see "
        "docs/engines.md"
    )

"""The engine interface: prompts as token ids in, completions out.

Randomness is a function of the key of each prompt and of the sample index, never of process history
or of what else is in the batch: a run can be resumed exactly and does not depend on batching.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from g2rl.types import Completion, SamplingParams

Key = tuple[int, ...]


class Engine(Protocol):
    """Draws responses from the current policy."""

    reports_logps: bool
    """Whether completions carry the log-probabilities that the engine sampled with."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[Key],
        samples: int,
        params: SamplingParams,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """`samples` completions of each prompt; `on_progress(n)` is told of n newly finished
        ones."""
        ...

    def push_weights(self) -> None:
        """Take over the policy's current weights (nothing to do when they are shared).

        Due once before the first `generate` and after every update.
        """
        ...

    def close(self) -> None:
        """Give back what the engine holds; no call may follow but another `close`.

        The last thing of a run: an engine may take torch's process groups down with it.
        """
        ...


def uniforms(key: Key, sample: int, count: int) -> np.ndarray:
    """`count` uniforms in [0, 1) of sample number `sample` under a key: a counter-based stream."""
    sequence = np.random.SeedSequence((*key, sample))
    return np.random.Generator(np.random.Philox(sequence)).random(count)


def seed_of(key: Key, sample: int) -> int:
    """A 63-bit seed of sample number `sample` under a key, for engines that draw their own
    randomness."""
    state = np.random.SeedSequence((*key, sample)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))

"""The interface of an engine: prompts as token ids go in, completions come out.

The randomness of a sample is a function of its prompt's key and of its number among the samples of
that prompt. It does not depend on earlier calls or on what else is in the batch, so that a resumed
run draws the same samples, and any batch size does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from g2rl.types import Completion, SamplingParams

Key = tuple[int, ...]


@dataclass(slots=True, frozen=True)
class SamplerMemory:
    """The settings of an engine that decide how much memory sampling takes."""

    max_rows: int
    """Responses decoded at once."""
    device_share: float | None = None
    """Share of the device's memory that an engine with its own weights takes; None: it samples with
    the policy's weights."""
    kv_cache_mb: int | None = None
    """Memory of that engine's KV cache in MiB, if it is set; it then replaces the share."""
    sleeps: bool = True
    """Whether that engine gives its memory back between samplings."""


class Engine(Protocol):
    """Draws responses from the current policy."""

    reports_logps: bool
    """Whether completions carry the log-probabilities of their tokens under the distribution that
    the engine drew them from."""

    @staticmethod
    def sampler_memory(settings: Mapping[str, Any]) -> SamplerMemory:
        """How the engine's memory is planned; called on the class, before an engine is built.

        Args:
            settings: node `engine` of the configuration.
        """
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[Key],
        samples: int,
        params: SamplingParams,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """Draw `samples` completions of each prompt, in the order of the prompts.

        Args:
            prompts: token ids of each prompt.
            keys: one for each prompt; with the sample's number it decides the random numbers.
            samples: completions of each prompt.
            params: temperature, truncation and length limit.
            on_progress: is called with the number of completions that have newly finished.
        """
        ...

    def push_weights(self) -> None:
        """Take over the policy's current weights; does nothing where they are shared.

        Must be called before the first `generate` and after every update.
        """
        ...

    def metrics(self) -> dict[str, float]:
        """What the engine has to say of its latest sampling, by quantity.

        `drift` is the difference between the log-probabilities that it sampled from and those of
        scoring, as a share of the tolerance; `drift_largest` and `drift_mean` are in nats. They are
        there where the sampling, or the weight push before it, was compared.
        """
        ...

    def close(self) -> None:
        """Free what the engine holds. Afterwards only `close` may be called again.

        This is the last call of a run, because an engine may destroy torch's process groups.
        """
        ...


def uniforms(key: Key, sample: int, count: int) -> np.ndarray:
    """Random numbers of one sample: `count` uniforms in [0, 1), float64.

    They are a counter-based stream that the key and the sample's number decide alone.
    """
    # a generator of its own for each sample: there is no state to carry from one to the next
    sequence = np.random.SeedSequence((*key, sample))
    return np.random.Generator(np.random.Philox(sequence)).random(count)


def seed_of(key: Key, sample: int) -> int:
    """A 63-bit seed of one sample, for engines that draw the random numbers themselves."""
    # without its lowest bit the number fits a signed 64-bit integer
    state = np.random.SeedSequence((*key, sample)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))

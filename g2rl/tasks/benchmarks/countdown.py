"""Held-out Countdown problems, the same in every run and never drawn in training."""

from __future__ import annotations

from collections.abc import Sequence

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.countdown import TINY_TEMPLATE, CountdownVerifier, held_out_problems
from g2rl.types import SamplingParams


def countdown_benchmark(
    problems: int = 256,
    limit: int | None = None,
    samples: int = 16,
    ks: Sequence[int] | None = (1, 4, 16),
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int = 120,
    template: str = TINY_TEMPLATE,
    name: str = "countdown",
) -> Benchmark:
    """A benchmark of held-out Countdown problems.

    Args:
        problems: the number of held-out problems.
        limit: keeps the first of them only.
        samples, ks, name: as in `Benchmark`.
        temperature, top_p, top_k, max_tokens: as in `SamplingParams`.
        template: as in the task `Countdown`.
    """
    held_out = held_out_problems(problems, template)[:limit]
    params = SamplingParams(temperature, top_p, top_k, max_tokens)
    return Benchmark(name, held_out, CountdownVerifier(), samples=samples, ks=ks, params=params)

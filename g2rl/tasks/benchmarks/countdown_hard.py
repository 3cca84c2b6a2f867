"""Held-out problems of the task countdown_hard, which training never draws."""

from __future__ import annotations

from collections.abc import Sequence

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.benchmarks.subset import subset_of
from g2rl.tasks.countdown import TINY_TEMPLATE, CountdownVerifier
from g2rl.tasks.countdown_hard import problems
from g2rl.types import SamplingParams


def countdown_hard_benchmark(
    subset: str | None = None,
    limit: int | None = None,
    samples: int = 64,
    ks: Sequence[int] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int = 120,
    template: str = TINY_TEMPLATE,
    name: str = "countdown_hard",
) -> Benchmark:
    """A benchmark of the held-out problems that the tiny policy hardly solves.

    Args:
        subset: "easy" or "hard" for these problems only.
        limit: keeps the first of them only.
        samples, ks, name: as in `Benchmark`.
        temperature, top_p, top_k, max_tokens: as in `SamplingParams`.
        template: as in the task `CountdownHard`.

    Raises:
        ValueError: there is no such subset.
    """
    # in file order, so that a limit keeps the same problems in every run
    held_out = subset_of(problems("heldout", template), subset)[:limit]
    params = SamplingParams(temperature, top_p, top_k, max_tokens)
    return Benchmark(name, held_out, CountdownVerifier(), samples=samples, ks=ks, params=params)

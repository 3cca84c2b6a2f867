"""Held-out problems of the task forked_skills: other digits of the same families."""

from __future__ import annotations

from collections.abc import Sequence

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.benchmarks.subset import subset_of
from g2rl.tasks.forked_skills import ForkedSkillsVerifier, problems
from g2rl.types import SamplingParams


def forked_skills_benchmark(
    subset: str | None = None,
    limit: int | None = None,
    samples: int = 64,
    ks: Sequence[int] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int = 8,
    name: str = "forked_skills",
) -> Benchmark:
    """A benchmark of all held-out problems. Results are also given for easy and hard families.

    Args:
        subset: "easy" or "hard" for these problems only.
        limit: keeps the first problems only; families take turns, so the mixture stays.
        samples, ks, name: as in `Benchmark`.
        temperature, top_p, top_k, max_tokens: as in `SamplingParams`.
    """
    # the subset first: a limit then counts problems of that subset
    held_out = subset_of(problems(held_out=True), subset)[:limit]
    params = SamplingParams(temperature, top_p, top_k, max_tokens)
    return Benchmark(name, held_out, ForkedSkillsVerifier(), samples=samples, ks=ks, params=params)

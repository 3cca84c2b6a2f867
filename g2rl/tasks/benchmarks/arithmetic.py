"""Held-out problems of the task arithmetic: sums, bounds and targets that training never asks."""

from __future__ import annotations

from collections.abc import Sequence

from g2rl.tasks.arithmetic import problems, verifier_of
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.types import SamplingParams


def arithmetic_benchmark(
    form: str = "sum",
    limit: int | None = None,
    samples: int = 16,
    ks: Sequence[int] | None = None,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int = 6,
    name: str = "arithmetic_sum",
) -> Benchmark:
    """A benchmark of all held-out problems of a form.

    Args:
        form: "sum", "between" or "parts", see `g2rl.tasks.arithmetic`.
        limit: keeps the first problems only.
        samples, ks, name: as in `Benchmark`.
        temperature, top_p, top_k, max_tokens: as in `SamplingParams`.

    Raises:
        ValueError: there is no such form.
    """
    held_out = problems(form, held_out=True)[:limit]
    params = SamplingParams(temperature, top_p, top_k, max_tokens)
    return Benchmark(name, held_out, verifier_of(form), samples=samples, ks=ks, params=params)

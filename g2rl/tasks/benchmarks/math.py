"""Mathematics benchmarks read from the hub or a local file: MATH500, AMC23, AIME24, AIME25."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.math import MathVerifier
from g2rl.tasks.math import Source, math_problems
from g2rl.types import SamplingParams


def math_benchmark(
    name: str,
    limit: int | None = None,
    samples: int = 16,
    ks: Sequence[int] | None = None,
    temperature: float = 0.8,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int = 8192,
    boxed_only: bool = False,
    **source: Unpack[Source],
) -> Benchmark:
    """A benchmark of questions with a mathematical final answer.

    Args:
        name: of the benchmark, and the beginning of each problem's id.
        limit: keeps the first rows only.
        samples, ks: as in `Benchmark`.
        temperature, top_p, top_k, max_tokens: as in `SamplingParams`.
        boxed_only: an answer outside a box counts as none.
        source: where the questions come from.

    Raises:
        DataError: as in `math_problems`.
    """
    problems, _ = math_problems(name, **source)
    params = SamplingParams(temperature, top_p, top_k, max_tokens)
    verifier = MathVerifier(boxed_only)
    return Benchmark(name, problems[:limit], verifier, samples=samples, ks=ks, params=params)

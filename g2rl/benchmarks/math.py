"""Mathematics benchmarks read from the hub or a local file: MATH500 and its kind."""

from __future__ import annotations

from collections.abc import Sequence

from g2rl.benchmarks.base import Benchmark
from g2rl.tasks.math import AUTO, PAPER_INSTRUCTION, math_problems
from g2rl.types import SamplingParams
from g2rl.verify.math import MathVerifier


def math_benchmark(
    name: str,
    source: str,
    data_dir: str | None = None,
    local_name: str | None = None,
    split: str = "test",
    config: str | None = None,
    revision: str | None = None,
    problem_column: str = "problem",
    answer_column: str = AUTO,
    instruction: str = PAPER_INSTRUCTION,
    limit: int | None = None,
    samples: int = 16,
    ks: Sequence[int] = (1, 16),
    temperature: float = 0.8,
    top_p: float = 1.0,
    top_k: int = 0,
    max_tokens: int = 8192,
) -> Benchmark:
    """A benchmark of questions with a mathematical final answer; `limit` keeps the first rows only."""
    problems, _ = math_problems(
        source, name=name, data_dir=data_dir, local_name=local_name, split=split, config=config, revision=revision,
        problem_column=problem_column, answer_column=answer_column, instruction=instruction,
    )  # fmt: skip
    return Benchmark(
        name, problems[:limit], MathVerifier(),
        samples=samples, ks=ks, params=SamplingParams(temperature, top_p, top_k, max_tokens),
    )  # fmt: skip

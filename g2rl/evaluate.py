"""Evaluate a policy on a benchmark: sample, grade, and estimate pass@k and maj@k with intervals.

Raw verdicts only: no shaped reward ever enters here. The random numbers of a sample are a function of
(seed, problem, sample), the same at every evaluation, so that two checkpoints are compared on common
random numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from g2rl.benchmarks.base import Benchmark
from g2rl.engines.base import Engine
from g2rl.estimators import Interval, bootstrap_interval, maj_at_k, pass_at_k
from g2rl.models import encode_prompt
from g2rl.types import Completion, Verdict
from g2rl.verify.pool import Grader

EVAL_STREAM = 0xE7A1


@dataclass(slots=True)
class EvalResult:
    """Graded samples of one benchmark and what they say."""

    name: str
    prompts: list[list[int]]
    completions: list[list[Completion]]
    verdicts: list[list[Verdict]]
    per_problem: dict[str, np.ndarray]
    """Metric name ("pass@4") to its value on each problem."""

    @property
    def intervals(self) -> dict[str, Interval]:
        """95 % bootstrap intervals over problems of the accuracies (pass@k, maj@k)."""
        return {
            name: bootstrap_interval(values, seed=0)
            for name, values in self.per_problem.items()
            if name.startswith(("pass@", "maj@"))
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Means over problems, named without the stage: pass@1, pass@1_low, pass@1_high, length, ..."""
        found = {name: float(values.mean()) for name, values in self.per_problem.items()}
        for name, interval in self.intervals.items():
            found |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        return found


def evaluate(
    benchmark: Benchmark,
    engine: Engine,
    grader: Grader,
    tokenizer: Any,
    *,
    chat: bool,
    seed: int,
    samples: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> EvalResult:
    """Draw `samples` (default: the benchmark's n) responses a problem and grade them.

    ks above `samples` are left out. Metrics: pass@k and maj@k for each k, `length` in tokens,
    `truncated` share, and `distinct`, the number of distinct right answers of a problem's samples.
    """
    count = samples or benchmark.samples
    prompts = [encode_prompt(tokenizer, problem.prompt, chat) for problem in benchmark.problems]
    keys = [(seed, EVAL_STREAM, i) for i in range(len(prompts))]
    completions = engine.generate(prompts, keys, count, benchmark.params, on_progress)
    items = [
        (completion.text, problem)
        for problem, group in zip(benchmark.problems, completions, strict=True)
        for completion in group
    ]
    flat = grader.grade(items)
    verdicts = [flat[i * count : (i + 1) * count] for i in range(len(prompts))]
    ks = [k for k in benchmark.ks if k <= count]
    per_problem = estimate(verdicts, ks, grader)
    per_problem["length"] = np.array([np.mean([len(c.token_ids) for c in group]) for group in completions])
    per_problem["truncated"] = np.array(
        [np.mean([c.finish == "length" for c in group]) for group in completions]
    )
    return EvalResult(benchmark.name, prompts, completions, verdicts, per_problem)


def estimate(verdicts: list[list[Verdict]], ks: list[int], grader: Grader) -> dict[str, np.ndarray]:
    """pass@k, maj@k and the number of distinct right answers, per problem.

    A problem where every or no sample is right needs no grouping of answers for maj@k beyond telling
    answered from unanswered samples, but grouping is cheap there too: equal keys are merged first.
    """
    totals = np.array([len(group) for group in verdicts])
    right = np.array([sum(v.correct for v in group) for group in verdicts])
    metrics = {f"pass@{k}": pass_at_k(totals, right, k) for k in ks}
    majority: dict[int, list[float]] = {k: [] for k in ks if k > 1}
    distinct = []
    for group in verdicts:
        classes = grader.cluster([v.answer for v in group])
        correct = [v.correct for v in group]
        distinct.append(len({c for c, ok in zip(classes, correct, strict=True) if ok and c >= 0}))
        for k, values in majority.items():
            values.append(maj_at_k(classes, correct, k).value)
    metrics |= {f"maj@{k}": np.array(values) for k, values in majority.items()}
    metrics["distinct"] = np.array(distinct, dtype=float)
    return metrics

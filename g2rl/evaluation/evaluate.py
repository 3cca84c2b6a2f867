"""Evaluate a policy on a benchmark: sample, grade, and estimate pass@k and maj@k with intervals.

Raw verdicts only: no shaped reward ever enters here. The random numbers of a sample are a function
of (seed, problem, sample), the same at every evaluation, so that two checkpoints are compared on
common random numbers. Training calls `evaluate`; `g2rl-eval` uses the same parts piecewise, see
`g2rl.evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from g2rl.engines.engine import Engine
from g2rl.evaluation.estimates import GradedSamples, measure
from g2rl.formulas.estimators import Interval, bootstrap_interval
from g2rl.policy.prompts import encode_prompt
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.grader import Grader
from g2rl.types import Completion, Problem, Tokenizer, Verdict
from g2rl.world import World

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
        intervals: dict[str, Interval] = {}
        for name, values in self.per_problem.items():
            if name.startswith(("pass@", "maj@")):
                intervals[name] = bootstrap_interval(values, seed=0)
        return intervals

    @property
    def metrics(self) -> dict[str, float]:
        """Means over problems by name: pass@1, pass@1_low, pass@1_high, length, ..."""
        metrics = {name: float(values.mean()) for name, values in self.per_problem.items()}
        for name, interval in self.intervals.items():
            metrics[f"{name}_low"] = interval.low
            metrics[f"{name}_high"] = interval.high
        return metrics


def evaluate(
    benchmark: Benchmark,
    engine: Engine,
    grader: Grader,
    tokenizer: Tokenizer,
    *,
    chat: bool,
    seed: int,
    samples: int | None = None,
    on_progress: Callable[[int], None] | None = None,
    world: World | None = None,
) -> EvalResult:
    """Draw `samples` (default: the benchmark's n) responses a problem and grade them.

    ks above `samples` are left out. Metrics: pass@k and maj@k for each k, `length` in tokens,
    `truncated` share, and `distinct`, the number of distinct right answers of a problem's samples.
    The ranks of `world` divide the problems among them; each gets the same result.
    """
    sample_count = samples or benchmark.samples
    world = world or World()

    # this rank samples and grades its share of the problems
    own_places = world.deal(range(len(benchmark.problems)))
    own_responses = respond(
        benchmark,
        own_places,
        engine,
        grader,
        tokenizer,
        chat=chat,
        seed=seed,
        samples=sample_count,
        on_progress=on_progress,
    )
    prompts = world.collect(own_responses.prompts)
    completions = world.collect(own_responses.completions)
    verdicts = world.collect(own_responses.verdicts)

    # the first rank estimates for all: maj@k may need the grader
    graded = GradedSamples(
        verdicts,
        [[len(completion.token_ids) for completion in group] for group in completions],
        [[completion.finish for completion in group] for group in completions],
    )
    ks = [k for k in benchmark.ks if k <= sample_count]
    per_problem = world.from_first(lambda: measure(graded, ks, grader).values)
    return EvalResult(benchmark.name, prompts, completions, verdicts, per_problem)


class Responses(NamedTuple):
    """Graded responses to some problems, one entry a problem."""

    prompts: list[list[int]]
    completions: list[list[Completion]]
    verdicts: list[list[Verdict]]


def respond(
    benchmark: Benchmark,
    places: Sequence[int],
    engine: Engine,
    grader: Grader,
    tokenizer: Tokenizer,
    *,
    chat: bool,
    seed: int,
    samples: int,
    on_progress: Callable[[int], None] | None = None,
) -> Responses:
    """Sample and grade the problems at `places` of the benchmark.

    The random numbers belong to the place, so that any division into parts draws the same.
    """
    problems = [benchmark.problems[place] for place in places]
    prompts = [encode_prompt(tokenizer, problem.prompt, chat) for problem in problems]
    keys = [(seed, EVAL_STREAM, place) for place in places]
    completions = engine.generate(prompts, keys, samples, benchmark.params, on_progress)

    # grade all at once, then divide the verdicts by problem
    items: list[tuple[str, Problem]] = []
    for problem, group in zip(problems, completions, strict=True):
        for completion in group:
            items.append((completion.text, problem))
    verdicts = grader.grade(items)
    starts = range(0, len(verdicts), samples)
    return Responses(prompts, completions, [verdicts[i : i + samples] for i in starts])

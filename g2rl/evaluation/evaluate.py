"""Evaluate a policy on a benchmark: sample, grade, and estimate pass@k and maj@k with intervals.

Raw verdicts only: no shaped reward ever enters here. The random numbers of a sample are a function
of (seed, problem, sample), the same at every evaluation, so that two checkpoints are compared on
common random numbers. Training calls `evaluate`; `g2rl-eval` uses the same parts piecewise, see
`g2rl.evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from g2rl.engines.engine import Engine
from g2rl.evaluation.estimates import estimate
from g2rl.formulas.estimators import Interval, bootstrap_interval
from g2rl.policy.prompts import encode_prompt
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.grader import Grader
from g2rl.types import Completion, Tokenizer, Verdict
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
        return {
            name: bootstrap_interval(values, seed=0)
            for name, values in self.per_problem.items()
            if name.startswith(("pass@", "maj@"))
        }

    @property
    def metrics(self) -> dict[str, float]:
        """Means over problems, named without the stage: pass@1, pass@1_low, pass@1_high, length,
        ..."""
        found = {name: float(values.mean()) for name, values in self.per_problem.items()}
        for name, interval in self.intervals.items():
            found |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
        return found


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
    count = samples or benchmark.samples
    world = world or World()
    places = world.deal(range(len(benchmark.problems)))
    parts = respond(
        benchmark,
        places,
        engine,
        grader,
        tokenizer,
        chat=chat,
        seed=seed,
        samples=count,
        on_progress=on_progress,
    )
    prompts, completions = world.collect(parts[0]), world.collect(parts[1])
    verdicts = world.collect(parts[2])
    ks = [k for k in benchmark.ks if k <= count]
    per_problem = world.from_first(lambda: estimate(verdicts, ks, grader).values)
    per_problem["length"] = np.array(
        [np.mean([len(c.token_ids) for c in group]) for group in completions]
    )
    per_problem["truncated"] = np.array(
        [np.mean([c.finish == "length" for c in group]) for group in completions]
    )
    return EvalResult(benchmark.name, prompts, completions, verdicts, per_problem)


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
) -> tuple[list[list[int]], list[list[Completion]], list[list[Verdict]]]:
    """Sample and grade the problems at `places` of the benchmark: prompts, completions and
    verdicts.

    The random numbers belong to the place, so that any division into parts draws the same.
    """
    problems = [benchmark.problems[place] for place in places]
    prompts = [encode_prompt(tokenizer, problem.prompt, chat) for problem in problems]
    keys = [(seed, EVAL_STREAM, place) for place in places]
    completions = engine.generate(prompts, keys, samples, benchmark.params, on_progress)
    items = [
        (completion.text, problem)
        for problem, group in zip(problems, completions, strict=True)
        for completion in group
    ]
    flat = grader.grade(items)
    return (
        prompts,
        completions,
        [flat[i * samples : (i + 1) * samples] for i in range(len(problems))],
    )

"""Evaluate a policy on a benchmark: sample, grade, and estimate pass@k and maj@k with intervals.

The random numbers of a sample are a function of (seed, problem, sample) and the same at every
evaluation, so that two checkpoints are compared on common random numbers. Training calls
`evaluate`. `g2rl-eval` calls `respond` for a few problems at a time, see `g2rl.evaluation.folder`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from g2rl.engines.engine import Engine, Key
from g2rl.engines.graded_text import graded_item, with_markers
from g2rl.evaluation.estimates import GradedSamples, interval_over_problems, measure_samples
from g2rl.formulas.estimators import Interval
from g2rl.policy.prompts import encode_prompt
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.grader import Grader
from g2rl.types import Completion, Problem, Tokenizer, Verdict
from g2rl.world import World

EVAL_STREAM = 0xE7A1
"""Part of every sample's key; keeps evaluation's random numbers apart from those of training."""


@dataclass(slots=True)
class EvalResult:
    """The graded samples of one benchmark of B problems, and their metrics."""

    name: str
    """Name of the benchmark."""
    prompts: list[list[int]]
    """Token ids of each problem's prompt."""
    completions: list[list[Completion]]
    """The samples of each problem."""
    verdicts: list[list[Verdict]]
    """The verdicts on these samples."""
    per_problem: dict[str, np.ndarray]
    """Metric name ("pass@4") to its value on each problem, (B,)."""

    @property
    def intervals(self) -> dict[str, Interval]:
        """95 % bootstrap intervals over problems of each pass@k and maj@k."""
        intervals: dict[str, Interval] = {}
        for name, values in self.per_problem.items():
            if name.startswith(("pass@", "maj@")):
                intervals[name] = interval_over_problems(values)
        return intervals

    @property
    def metrics(self) -> dict[str, float]:
        """Means over problems, and the bounds of the intervals: pass@1, length, pass@1_low, ..."""
        metrics = {name: float(values.mean()) for name, values in self.per_problem.items()}

        # of accuracies the bounds as well
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
    """Sample responses to every problem of a benchmark, grade them and estimate the metrics.

    The metrics are pass@k and maj@k for each of the benchmark's k, `length` in tokens, `truncated`
    (share of responses cut off by the token limit) and `distinct` (number of distinct right answers
    among a problem's samples).

    Args:
        benchmark: the problems, and how they are sampled.
        engine: draws the responses.
        grader: judges them.
        tokenizer: of the policy.
        chat: prompts go through the tokenizer's chat template.
        seed: of the samples.
        samples: responses a problem; None takes the benchmark's number. k above it are left out.
        on_progress: is called with the number of responses that have newly finished on this rank.
        world: the ranks that divide the problems among them; each gets the same result.
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

    # every rank gets all responses, in the order of the problems
    prompts = world.collect(own_responses.prompts)
    completions = world.collect(own_responses.completions)
    verdicts = world.collect(own_responses.verdicts)

    # the first rank estimates for all, because comparing answers may need the grader's workers
    graded = graded_samples(completions, verdicts)
    ks = [k for k in benchmark.ks if k <= sample_count]
    per_problem = world.from_first(lambda: measure_samples(graded, ks, grader).values)
    return EvalResult(benchmark.name, prompts, completions, verdicts, per_problem)


def graded_samples(
    completions: Sequence[Sequence[Completion]], verdicts: Sequence[Sequence[Verdict]]
) -> GradedSamples:
    """Completions and their verdicts, by problem, as `measure_samples` takes them."""
    lengths: list[list[int]] = []
    finishes: list[list[str]] = []
    for group in completions:
        lengths.append([len(completion.token_ids) for completion in group])
        finishes.append([completion.finish for completion in group])
    return GradedSamples(verdicts, lengths, finishes)


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
    """Sample and grade responses to some problems of a benchmark.

    The random numbers of a problem belong to its place in the benchmark, so that it does not matter
    which problems are sampled together.

    Args:
        benchmark: the problems, and how they are sampled.
        places: of the problems in the benchmark.
        engine: draws the responses.
        grader: judges them.
        tokenizer: of the policy.
        chat: prompts go through the tokenizer's chat template.
        seed: of the samples.
        samples: responses a problem.
        on_progress: is called with the number of responses that have newly finished.
    """
    # a key names the problem by its place, not by its number in this call
    prompts: list[list[int]] = []
    keys: list[Key] = []
    for place in places:
        prompts.append(encode_prompt(tokenizer, benchmark.problems[place].prompt, chat))
        keys.append((seed, EVAL_STREAM, place))
    sampled = engine.generate(prompts, keys, samples, benchmark.params, on_progress)
    completions = with_markers(tokenizer, prompts, sampled)

    # in one call, so that all workers of the grader are busy
    items: list[tuple[str, Problem]] = []
    for place, group in zip(places, completions, strict=True):
        for completion in group:
            problem = benchmark.problems[place]
            items.append(graded_item(completion.text, completion.finish, problem))
    verdicts = grader.grade(items)

    # back to one list a problem
    starts = range(0, len(verdicts), samples)
    return Responses(prompts, completions, [verdicts[i : i + samples] for i in starts])

"""Evaluate a policy on a benchmark: sample, grade, and estimate pass@k and maj@k with intervals.

Raw verdicts only: no shaped reward ever enters here. The random numbers of a sample are a function of
(seed, problem, sample), the same at every evaluation, so that two checkpoints are compared on common
random numbers. Training calls `evaluate`; `g2rl-eval` uses the same parts piecewise, see `g2rl.evaluation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from g2rl.engines.engine import Engine
from g2rl.formulas.estimators import Estimate, Interval, bootstrap_interval, maj_at_k, pass_at_k
from g2rl.policy.loading import encode_prompt
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.grading.grader import Grader
from g2rl.types import Completion, Verdict
from g2rl.world import World

EVAL_STREAM = 0xE7A1
FAILED = ("timeout", "killed", "error", "refused")
"""Routes of answers that no mathematics is tried on again when votes are counted."""


@dataclass(slots=True, frozen=True)
class Vote:
    """One equivalence class of a problem's answers, e.g. ``Vote("1/2", 5, 5)``."""

    answer: str
    """The shortest member."""
    count: int
    correct: int


@dataclass(slots=True)
class Estimates:
    """What graded samples say of each problem (B problems)."""

    values: dict[str, np.ndarray]
    """Metric name ("pass@4", "maj@4", "distinct") to its value on each problem, (B,)."""
    errors: dict[str, np.ndarray]
    """The Monte Carlo standard errors of "maj@k", (B,); zero where it was enumerated."""
    exact: dict[str, bool]
    """Whether "maj@k" was enumerated on every problem."""
    votes: list[list[Vote]]
    """The answers of each problem, most frequent first; samples without one are left out."""


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
        benchmark, places, engine, grader, tokenizer,
        chat=chat, seed=seed, samples=count, on_progress=on_progress,
    )  # fmt: skip
    prompts, completions = world.collect(parts[0]), world.collect(parts[1])
    verdicts = world.collect(parts[2])
    ks = [k for k in benchmark.ks if k <= count]
    per_problem = world.from_first(lambda: estimate(verdicts, ks, grader).values)
    per_problem["length"] = np.array([np.mean([len(c.token_ids) for c in group]) for group in completions])
    per_problem["truncated"] = np.array(
        [np.mean([c.finish == "length" for c in group]) for group in completions]
    )
    return EvalResult(benchmark.name, prompts, completions, verdicts, per_problem)


def respond(
    benchmark: Benchmark,
    places: Sequence[int],
    engine: Engine,
    grader: Grader,
    tokenizer: Any,
    *,
    chat: bool,
    seed: int,
    samples: int,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[list[list[int]], list[list[Completion]], list[list[Verdict]]]:
    """Sample and grade the problems at `places` of the benchmark: prompts, completions and verdicts.

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
    return prompts, completions, [flat[i * samples : (i + 1) * samples] for i in range(len(problems))]


def estimate(verdicts: list[list[Verdict]], ks: Sequence[int], grader: Grader) -> Estimates:
    """pass@k, maj@k, the number of distinct right answers, and the votes, per problem.

    Independent of the order of problems and of samples.
    """
    totals = np.array([len(group) for group in verdicts])
    right = np.array([sum(v.correct for v in group) for group in verdicts])
    majority: dict[int, list[Estimate]] = {k: [] for k in ks if k > 1}
    distinct, votes = [], []
    for group in verdicts:
        classes = answer_classes(group, grader)
        correct = [v.correct for v in group]
        distinct.append(len({c for c, ok in zip(classes, correct, strict=True) if ok and c >= 0}))
        votes.append(count_votes(group, classes))
        for k, found in majority.items():
            found.append(maj_at_k(classes, correct, k))
    values = {f"pass@{k}": pass_at_k(totals, right, k) for k in ks}
    values |= {f"maj@{k}": np.array([e.value for e in found]) for k, found in majority.items()}
    values["distinct"] = np.array(distinct, dtype=float)
    errors = {f"maj@{k}": np.array([e.standard_error for e in found]) for k, found in majority.items()}
    exact = {f"maj@{k}": all(e.exact for e in found) for k, found in majority.items()}
    return Estimates(values, errors, exact, votes)


def answer_classes(group: Sequence[Verdict], grader: Grader) -> list[int]:
    """Equivalence classes of a problem's answers as integers, -1 for none.

    Answers are compared in sorted order, so that the classes do not depend on sample order. One on which
    the grader failed stands with its literal equals alone: comparing it would only fail again.
    """
    failed = {v.answer for v in group if v.answer is not None and v.route in FAILED}
    answers = sorted({v.answer for v in group if v.answer is not None} - failed, key=lambda a: (len(a), a))
    class_of = dict(zip(answers, grader.cluster(answers), strict=True))
    for answer in sorted(failed):
        class_of[answer] = max(class_of.values(), default=-1) + 1
    return [-1 if v.answer is None else class_of[v.answer] for v in group]


def count_votes(group: Sequence[Verdict], classes: Sequence[int]) -> list[Vote]:
    """The classes as votes, most frequent first; ties in order of the shortest answer."""
    votes = []
    for label in set(classes) - {-1}:
        members = [v for v, c in zip(group, classes, strict=True) if c == label]
        shortest = min((v.answer or "" for v in members), key=lambda a: (len(a), a))
        votes.append(Vote(shortest, len(members), sum(v.correct for v in members)))
    return sorted(votes, key=lambda vote: (-vote.count, len(vote.answer), vote.answer))

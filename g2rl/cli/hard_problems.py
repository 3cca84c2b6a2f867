"""Make the problems of the task countdown_hard again, by sampling the tiny policy.

    python -m g2rl.cli.hard_problems --out problems.json       # ten minutes on one core

Every candidate has four numbers. It gets `FIRST_SAMPLES` responses, and if it is not solved too
often, the rest up to `countdown_hard.SAMPLES`. Training problems come from the training stream of a
seed that no run uses by default, held-out problems from the held-out stream of Countdown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from g2rl.engines.transformers import TransformersEngine
from g2rl.evaluation.evaluate import respond
from g2rl.formulas.estimators import pass_at_k
from g2rl.policy.loading import load
from g2rl.policy.policy import Policy
from g2rl.runs.files import atomic_path
from g2rl.tasks import countdown, countdown_hard
from g2rl.tasks.benchmarks.benchmark import Benchmark
from g2rl.tasks.countdown_solutions import solutions
from g2rl.tasks.grading.grader import Grader
from g2rl.types import Problem, SamplingParams

TRAIN_SEED = 9_001
FIRST_SAMPLES = 16
TRAINING, HELD_OUT = 512, 256
"""Problems of the two parts."""
AT_A_TIME = 64
"""Candidates that are sampled together."""
HELD_OUT_CANDIDATES = 4_000
"""So many first problems of Countdown's held-out stream are candidates, or never in training."""


def is_wanted(right: int) -> bool:
    """Whether a candidate that was solved `right` times in all its responses is taken."""
    estimate = pass_at_k(countdown_hard.SAMPLES, right, countdown_hard.K)
    return right > 0 and bool(estimate <= countdown_hard.MOST_PASS)


class Sampler:
    """The tiny policy, and who judges it."""

    def __init__(self, seed: int) -> None:
        # before any reinforcement learning
        loaded = load("builtin:tiny")
        self.seed = seed
        self.tokenizer = loaded.tokenizer
        self.engine = TransformersEngine(Policy(loaded.model), loaded.tokenizer, loaded.stop_ids)
        self.engine.push_weights()
        self.grader = Grader(countdown.CountdownVerifier())

    def right(self, problems: list[Problem], samples: int) -> list[int]:
        """How many of so many responses to each problem are right."""
        # sampled like a benchmark, so that the random numbers belong to problem and sample
        benchmark = Benchmark(
            "candidates",
            problems,
            self.grader.verifier,
            samples=samples,
            ks=[1],
            params=SamplingParams(max_tokens=120),
        )
        verdicts = respond(
            benchmark,
            range(len(problems)),
            self.engine,
            self.grader,
            self.tokenizer,
            chat=True,
            seed=self.seed,
            samples=samples,
        ).verdicts
        return [sum(verdict.correct for verdict in group) for group in verdicts]


def training_candidates() -> Iterator[Problem]:
    """Problems of the training stream, without those that are or may be held out."""
    index = 0
    while True:
        numbers, steps = countdown.draw_training(TRAIN_SEED, index, HELD_OUT_CANDIDATES)
        yield countdown.problem_of(f"candidate/{index}", numbers, steps[-1].result)
        index += 1


def choose(sampler: Sampler, candidates: Iterator[Problem], count: int) -> list[dict[str, object]]:
    """The first `count` candidates that are hard enough and different, as rows of the file.

    Raises:
        ValueError: the candidates come to an end before that.
    """
    chosen: list[dict[str, object]] = []
    seen: set[tuple[int, ...]] = set()
    while len(chosen) < count:
        # some candidates with four numbers that have not been looked at
        batch: list[Problem] = []
        for problem in candidates:
            mark = countdown.signature(problem.meta["numbers"], problem.meta["target"])
            if len(problem.meta["numbers"]) == 4 and mark not in seen:
                seen.add(mark)
                batch.append(problem)
            if len(batch) == AT_A_TIME:
                break
        if not batch:
            raise ValueError(f"only {len(chosen)} of {count} problems among the candidates")

        # the last batch may give more than are needed
        chosen += hard_ones(sampler, batch)
        print(f"{min(len(chosen), count)}/{count} of {len(seen)} candidates", flush=True)
    return chosen[:count]


def hard_ones(sampler: Sampler, batch: list[Problem]) -> list[dict[str, object]]:
    """Those of a batch of candidates that are taken, as rows of the file."""
    # few responses are enough to see that a problem is solved too often
    first = sampler.right(batch, FIRST_SAMPLES)
    left: list[Problem] = []
    for problem, right in zip(batch, first, strict=True):
        if is_wanted(max(right, 1)):
            left.append(problem)
    if not left:
        return []

    # sampled anew from the first response on, since the random numbers of the first ones are equal
    rows: list[dict[str, object]] = []
    for problem, right in zip(left, sampler.right(left, countdown_hard.SAMPLES), strict=True):
        if is_wanted(right):
            numbers, target = problem.meta["numbers"], problem.meta["target"]
            row = {"numbers": numbers, "target": target, "right": right}
            rows.append({**row, "solutions": len(solutions(numbers, target))})
    return rows


def main(argv: list[str] | None = None) -> int:
    """Command line of `python -m g2rl.cli.hard_problems`."""
    parser = argparse.ArgumentParser(
        prog="python -m g2rl.cli.hard_problems", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument("--training", type=int, default=TRAINING)
    parser.add_argument("--held-out", type=int, default=HELD_OUT)
    args = parser.parse_args(argv)

    # held-out problems are chosen like those of training
    sampler = Sampler(args.seed)
    held_out = iter(countdown.held_out_problems(HELD_OUT_CANDIDATES))
    parts = {
        "train": choose(sampler, training_candidates(), args.training),
        "heldout": choose(sampler, held_out, args.held_out),
    }

    # one row a line, so that a difference can be read
    lines: list[str] = []
    for part, rows in parts.items():
        written = ",\n".join(json.dumps(row) for row in rows)
        lines.append(f'"{part}": [\n{written}\n]')
    with atomic_path(args.out) as aside:
        aside.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
